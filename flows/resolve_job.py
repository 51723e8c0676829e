"""List the jobs in doubt, or carry out what a person decided about one: a flow to deploy, and a command.

Deployed, `resolve_job` shows a form in the Prefect UI, and its artifact lists the jobs. As a command:

    python flows/resolve_job.py --bucket my-bucket
    python flows/resolve_job.py KEY adopt TASK_ID --bucket my-bucket --why "found it in the dashboard"
    python flows/resolve_job.py KEY submit-again --bucket my-bucket
    python flows/resolve_job.py KEY give-up --bucket my-bucket
    python flows/resolve_job.py KEY take-back --bucket my-bucket --why "it is another job's task"

`python -m prefect_loova.resolve` is the same, where only the package is installed. Exit codes: 0 listed or decided;
2 invalid input; 1 anything else.
"""

from __future__ import annotations

import sys

from prefect_loova import resolve_job
from prefect_loova.resolve import main

__all__ = ["resolve_job"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
