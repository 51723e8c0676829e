"""Automations as code: notify on a job in doubt, on a failed job, on low credits, and on a failed run.

    python deployments/automations.py --block slack-webhook/on-call

The block is a notification block that exists already (Slack, e-mail, a custom webhook, ...). Run it again to bring the
automations up to date. docs/events.md lists the events.
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
        "A submit was sent and its answer is lost: a person decides (resolve-job). " + _ABOUT_THE_JOB,
    ),
    "Loova job failed": (
        "loova.job.failed",
        {"prefect.resource.id": "loova.job.*"},
        "Loova ended a task without a video. " + _ABOUT_THE_JOB,
    ),
    "Loova credits low": (
        "loova.credits.low",
        {"prefect.resource.id": "loova.account.*"},
        "The Loova account runs low. {{ event.payload }}",
    ),
    "Loova run failed": (
        "prefect.flow-run.Failed prefect.flow-run.Crashed prefect.flow-run.TimedOut",
        {"prefect.resource.id": "prefect.flow-run.*"},
        "The flow run {{ flow_run.name }} ended badly: {{ flow_run.state.name }}, {{ flow_run.state.message }}",
    ),
}
"""For each automation, by its name: the events, the resource, and what the notification says."""


def automations(block_id: Any) -> list[Automation]:
    """The automations, each of which notifies by one block."""
    return [
        Automation(
            name=name,
            description="Made by deployments/automations.py of prefect-loova",
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
    """Make the automations, or bring them up to date."""
    parser = argparse.ArgumentParser(description="Notify on jobs in doubt, failures and low credits.")
    parser.add_argument("--block", required=True, metavar="TYPE/NAME", help="a notification block, by slug and name")
    name = parser.parse_args(argv).block
    try:
        block: Any = Block.load(name)
    except ValueError:
        parser.error(f"argument --block: {name!r} was given: there is no such block; make it in the UI under Blocks")
    for automation in automations(block._block_document_id):
        try:
            known = Automation.read(name=automation.name)
        except ValueError:
            automation.create()
            print(f"made: {automation.name}")
        else:
            automation.id = known.id  # type: ignore[union-attr]
            automation.update()
            print(f"up to date: {automation.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
