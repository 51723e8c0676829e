"""The command, where its script is not on the PATH: `python -m prefect_loova.cli`."""

from prefect_loova.cli import main

main()
