"""The command `prefect-loova`.

This module imports little, so that Ctrl-C ends the command without a traceback while the rest is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from prefect_loova.cli.interrupts import end_on_signals, end_quietly_on_signals, leave


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and end the process with its exit code.

    Args:
        arguments: The arguments, without the program's name; by default those of the process.

    Raises:
        SystemExit: Always.

    Example:
        ```python
        import sys

        from prefect_loova.cli import main

        if __name__ == "__main__":
            main(["generate", *sys.argv[1:]])
        ```
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end_on_signals(as_json="--json" in given)
    try:
        from prefect_loova.cli.app import run  # noqa: PLC0415

        code = run(given)
    except KeyboardInterrupt:
        leave()
    end_quietly_on_signals(code)
    sys.exit(code)
