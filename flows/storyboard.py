"""A flow to deploy that makes the shots of a story and joins them into one film.

As a command, it is `prefect-loova story`, with the same arguments:

    python flows/storyboard.py story.yaml --bucket my-bucket --dry-run
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["story", *sys.argv[1:]])
else:
    from prefect_loova import generate_storyboard

    __all__ = ["generate_storyboard"]
