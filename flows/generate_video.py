"""A flow to deploy that makes one video on Loova and saves it in a bucket.

As a command, it is `prefect-loova generate`, with the same arguments:

    python flows/generate_video.py "A futuristic city at sunset" --simulate
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
else:
    from prefect_loova import generate_video

    __all__ = ["generate_video"]
