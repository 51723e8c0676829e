"""List the jobs in doubt, or decide about one of them. Use it as a flow or as a command.

A deployment of `resolve_job` has a form in the Prefect UI, and publishes the jobs as an artifact. As a command:

    python flows/resolve_job.py --bucket my-bucket
    python flows/resolve_job.py KEY adopt TASK_ID --bucket my-bucket --why "found it in the dashboard"
    python flows/resolve_job.py KEY submit-again --bucket my-bucket
    python flows/resolve_job.py KEY give-up --bucket my-bucket
    python flows/resolve_job.py KEY take-back --bucket my-bucket --why "it is another job's task"

Without the checkout, use `python -m prefect_loova.resolve`. It is the same command.

Exit codes: 0 listed or decided; 2 invalid input; 1 any other error.
"""

from __future__ import annotations

import sys

from prefect_loova import resolve_job
from prefect_loova.resolve import main

__all__ = ["resolve_job"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
