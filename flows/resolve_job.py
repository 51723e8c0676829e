"""A flow to deploy that lists the jobs in doubt, or decides about one of them.

As a command, it is `prefect-loova resolve`, with the same arguments:

    python flows/resolve_job.py KEY adopt TASK_ID --bucket my-bucket --why "support named the task"
"""

import sys

from prefect_loova.cli import main

if __name__ == "__main__":
    main(["resolve", *sys.argv[1:]])
else:
    from prefect_loova import resolve_job

    __all__ = ["resolve_job"]
