"""Checks what this package assumes about Loova on the real API: `make test-live`.

Free requests come first. What may cost credits is sent only after a yes, or within LOOVA_LIVE_SPEND (credits). At most
one video is bought in all: a folder remembers each submit, and a later run goes on with the task that it has.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from prefect_loova._redaction import hide_secrets
from prefect_loova.client import DEFAULT_BASE_URL
from prefect_loova.models.prices import format_credits
from tests.live.assumptions import rows, tables
from tests.live.fixtures import fixtures, to_json
from tests.live.model import Row, Seen
from tests.live.observe import Observer, Settings
from tests.live.spending import Folder
from tests.live.submits import INVALID, PRICE

DOCS_PAGE = Path(__file__).parents[2] / "docs" / "assumptions.md"
_TABLES = re.compile(r"(?<=<!-- tables: python -m tests.live --write-docs -->\n\n).*", re.DOTALL)


def run(settings: Settings, allow: Callable[[Folder, Seen], float]) -> Seen:
    """Ask for free, then spend what `allow` returns, in credits, and watch what was bought."""
    with httpx.Client(timeout=30, follow_redirects=False) as http:
        observer = Observer(settings, http)
        observer.ask_for_free()
        observer.spend(allow(observer.folder, observer.seen))
        observer.watch()
        return observer.seen


def write(seen: Seen, api_key: str, folder: Path) -> list[Row]:
    """Write the report and the fixtures, and return the report's rows.

    Raises:
        AssertionError: A file would hold the key. It is not written.
    """
    found = [Row(row.id, row.outcome, hide_secrets(row.detail, api_key)) for row in rows(seen)]
    files = {f"fixtures/{name}.json": to_json(fault) for name, fault in fixtures(seen, api_key)}
    files["report.json"] = json.dumps([asdict(row) for row in found], indent=2, ensure_ascii=False) + "\n"
    for name, text in files.items():
        if api_key in text:
            raise AssertionError(f"{name} would hold the API key")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the suite. Return 0 if no assumption is refuted, 1 if one is, 2 if the suite cannot run."""
    options = _parser().parse_args(arguments)
    if options.write_docs:
        DOCS_PAGE.write_text(page_with_tables(DOCS_PAGE.read_text()))
        return 0
    api_key = os.environ.get("LOOVA_API_KEY", "").strip()
    base_url = (os.environ.get("LOOVA_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    if not api_key:
        print("LOOVA_API_KEY: is not set: must be an API key from the Loova dashboard", file=sys.stderr)
        return 2
    try:
        allowance = _allowance(os.environ.get("LOOVA_LIVE_SPEND"))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    folder = options.folder / re.sub(r"[^\w.-]+", "-", urlsplit(base_url).netloc)
    settings = Settings(api_key, base_url, folder / "requests", options.poll_seconds, options.wait_seconds)
    print(f"The API is {base_url}. The free checks come first.")
    try:
        seen = run(settings, lambda kept, seen: ask(kept, seen, allowance))
    except KeyboardInterrupt:
        print("\nStopped. Run this again to go on: what was bought is kept, and is not bought again.", file=sys.stderr)
        return 130
    found = write(seen, api_key, folder)
    print_table(found)
    print(f"\nThe report and the answers, redacted, are in {folder}: look through fixtures/ before you share them.")
    return 1 if any(row.outcome == "refuted" for row in found) else 0


def page_with_tables(page: str) -> str:
    """Return docs/assumptions.md with its tables made again."""
    return _TABLES.sub(lambda _: tables(), page)


def ask(kept: Folder, seen: Seen, allowance: float | None) -> float:
    """Return the credits that this run may spend. Without an allowance a person is asked, at a terminal."""
    if not seen.has_login:
        print("Nothing is submitted: the credits could not be read with this key.")
        return 0
    if kept.closed:
        print(f"Nothing is submitted: {kept.closed}.")
        return 0
    if allowance is not None:
        print(f"LOOVA_LIVE_SPEND allows {format_credits(allowance)}.")
        return allowance
    price = format_credits(PRICE)
    print(
        f"\nThe account has {seen.exchanges['credits'].data.get('api_available_credits')} API credits.\n"
        f"The rest may cost {price}: one video of 4 s with seedance_2_0_fast.\n"
        f"First, {sum(one.price <= PRICE for one in INVALID)} invalid requests are submitted, which Loova should refuse"
        " for free.\nIf it accepts one, that is the one video, and nothing more is submitted."
    )
    if not sys.stdin.isatty():
        print("Nobody is asked here. LOOVA_LIVE_SPEND=40 allows it.")
        return 0
    return PRICE if input(f"Spend up to {price}? Type yes: ").strip().lower() == "yes" else 0


def _allowance(text: str | None) -> float | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,4}", text):
        raise ValueError(f"LOOVA_LIVE_SPEND: {text!r} was given: must be a whole number of credits, 0 to 9999")
    return float(text)


def print_table(found: list[Row]) -> None:
    """Print the rows and how many there are of each outcome."""
    width = max(len(row.id) for row in found)
    print()
    for row in found:
        print(f"{row.outcome:<11}  {row.id:<{width}}  {row.detail}")
    counts = Counter(row.outcome for row in found)
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    add = parser.add_argument
    add("--folder", type=Path, default=Path(".loova-live"), help="what was bought, the report (default: %(default)s)")
    add("--poll-seconds", type=float, default=20, metavar="S", help="first pause between polls (default: %(default)s)")
    add("--wait-seconds", type=float, default=10_800, metavar="S", help="how long to poll (default: %(default)s)")
    add("--write-docs", action="store_true", help="only make the tables of docs/assumptions.md again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
