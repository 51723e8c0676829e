"""The command for jobs in doubt, as `python -m prefect_loova.resolve`. It is the same as `prefect-loova resolve`."""

from __future__ import annotations

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["resolve", *sys.argv[1:]])
