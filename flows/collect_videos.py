"""A flow to deploy that saves the videos of other runs and submits queued requests. Schedule it every minute or so.

As a command, it is `prefect-loova collect`, with the same arguments:

    python flows/collect_videos.py --bucket my-bucket
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["collect", *sys.argv[1:]])
else:
    from prefect_loova import collect_videos

    __all__ = ["collect_videos"]
