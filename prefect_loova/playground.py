"""The playground, as `python -m prefect_loova.playground`. It is the same as `prefect-loova playground`."""

from __future__ import annotations

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["playground", *sys.argv[1:]])
