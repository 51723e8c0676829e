"""A simulated Loova on loopback, for tests and trials. It validates, bills, makes real videos, and fails on demand.

    with LoovaSimulator(generation_seconds=0) as loova:
        loova.fail("lost_reply")
        ...  # any client of Loova, with loova.base_url and loova.api_key
        assert loova.ledger["totals"]["billed"] == 1

On the command line: `python -m prefect_loova.simulator`. In pytest: the fixture `loova_simulator`. It needs the extra
`prefect-loova[simulator]`. It never talks to Loova; it only fetches the reference media of requests. It imports nothing
of the package outside this folder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_loova.simulator.faults import FAULTS, Fault
    from prefect_loova.simulator.rules import ExtraModel
    from prefect_loova.simulator.server import LoovaSimulator

__all__ = ["FAULTS", "ExtraModel", "Fault", "LoovaSimulator"]

_MODULES = {"LoovaSimulator": "server", "ExtraModel": "rules", "Fault": "faults", "FAULTS": "faults"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: every pytest run with the plugin imports this package."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
