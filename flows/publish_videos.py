"""A flow to deploy that publishes chosen videos, with a manifest and a gallery page.

As a command, it is `prefect-loova publish`, with the same arguments:

    python flows/publish_videos.py --report prompts.report.csv --bucket my-bucket --to s3://my-website/boats/
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["publish", *sys.argv[1:]])
else:
    from prefect_loova import publish_videos

    __all__ = ["publish_videos"]
