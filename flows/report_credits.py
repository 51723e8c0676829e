"""A flow to deploy that reports the balance of the account and the credits spent.

As a command, it is `prefect-loova credits`, with the same arguments:

    python flows/report_credits.py --bucket my-bucket --days 7 --low-below 2000
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["credits", *sys.argv[1:]])
else:
    from prefect_loova import report_credits

    __all__ = ["report_credits"]
