"""A flow to deploy that makes the videos of a list (CSV or JSON lines).

As a command, it is `prefect-loova batch`, with the same arguments:

    python flows/generate_from_manifest.py prompts.csv --bucket my-bucket --dry-run
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["batch", *sys.argv[1:]])
else:
    from prefect_loova import generate_from_manifest

    __all__ = ["generate_from_manifest"]
