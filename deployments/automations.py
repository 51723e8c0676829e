"""Create automations that notify you of a job in doubt, a failed job, low credits, and a failed run.

    python deployments/automations.py --block slack-webhook/on-call

Create the notification block first (Slack, email, a custom webhook, ...). To update the automations, run the command
again. docs/events.md lists the events.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from prefect.automations import Automation
from prefect.blocks.core import Block
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture

_ABOUT_THE_JOB = "{{ event.payload }}"

WATCHED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Loova job in doubt": (
        "loova.job.in_doubt",
        {"prefect.resource.id": "loova.job.*"},
        "A submit was sent, but its answer is lost. A person must decide (resolve-job). " + _ABOUT_THE_JOB,
    ),
    "Loova job failed": (
        "loova.job.failed",
        {"prefect.resource.id": "loova.job.*"},
        "Loova ended a task without a video. " + _ABOUT_THE_JOB,
    ),
    "Loova credits low": (
        "loova.credits.low",
        {"prefect.resource.id": "loova.account.*"},
        "The Loova account is low on credits. {{ event.payload }}",
    ),
    "Loova run failed": (
        "prefect.flow-run.Failed prefect.flow-run.Crashed prefect.flow-run.TimedOut",
        {"prefect.resource.id": "prefect.flow-run.*"},
        "The flow run {{ flow_run.name }} failed: {{ flow_run.state.name }}, {{ flow_run.state.message }}",
    ),
}
"""The events, the resource and the text of the notification, by the name of the automation."""


def automations(block_id: Any) -> list[Automation]:
    """Return the automations. Each notifies through the block with this id."""
    return [
        Automation(
            name=name,
            description="Created by deployments/automations.py of prefect-loova",
            trigger=EventTrigger(
                expect=set(event.split()),
                match=resource,
                match_related={"prefect.resource.id": "prefect.tag.loova"} if event.startswith("prefect.") else {},
                posture=Posture.Reactive,
                threshold=1,
                within=0,
            ),
            actions=[SendNotification(block_document_id=block_id, subject=name, body=body)],
        )
        for name, (event, resource, body) in WATCHED.items()
    ]


def main(argv: list[str]) -> None:
    """Create or update the automations."""
    parser = argparse.ArgumentParser(description="Notify a person of jobs in doubt, failures and low credits.")
    parser.add_argument("--block", required=True, metavar="TYPE/NAME", help="the notification block, as slug/name")
    name = parser.parse_args(argv).block
    try:
        block: Any = Block.load(name)
    except ValueError:
        parser.error(f"argument --block: {name!r} was given: no such block exists; create it in the UI under Blocks")
    for automation in automations(block._block_document_id):
        try:
            known = Automation.read(name=automation.name)
        except ValueError:
            automation.create()
            print(f"created: {automation.name}")
        else:
            automation.id = known.id  # type: ignore[union-attr]
            automation.update()
            print(f"updated: {automation.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
