"""The network faults of the crash tests: each kind of fault, on each wire where the invariants can hold."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Literal

from tests.support.proxy import NetworkFault, Seen

Wire = Literal["api", "s3", "video"]

_PAGE = b"<html><body>Bad Gateway</body></html>"
_MOMENTS = ("before", "mid_request", "after", "mid_reply")
_LATE = (2.3, 4.5)
"""Longer than a client waits for S3, and than the next run waits for a claim; and when all the others are through."""

_MAY_BE_LATE = r"^(?!DELETE |POST .*[?]uploads)"

BROKEN = [NetworkFault(what=what, when=when) for what in ("kill", "drop", "reset") for when in _MOMENTS]
LATE = [
    # The client is gone, or goes on without the answer, and what it sent arrives when others are at work. Left out are
    # the begin of a multipart upload and a DELETE in the index: whoever is at work then has looked already, and nobody
    # can tell S3 to refuse them.
    *(NetworkFault(what=what, when="before", seconds=late) for what in ("kill", "drop", "delay") for late in _LATE),
    NetworkFault(what="delay", when="after", seconds=_LATE[0]),
]
ANSWERED = [
    NetworkFault(what="answer", when=when, status=status, body=body, headers=headers)
    for when in ("before", "after")
    for status, body, headers in [
        (500, b"", ()),
        (502, _PAGE, ()),
        (503, b"", ()),
        (503, b"", (("Retry-After", "1"),)),
    ]
]
# A success that is none. Left out is one that looks right in all that the caller reads (a PUT with an ETag, the 204 of
# a DELETE): nobody could tell.
LYING = [
    NetworkFault(what="answer", when=when, status=200, body=body)
    for when in ("before", "after")
    for body in (b"", _PAGE)
]
CUT = [NetworkFault(what="truncate", when="after")]
# Of what Loova sends nothing but TLS notices a byte that changes (a task id, a video): no checksum is documented.
CORRUPT = [NetworkFault(what="corrupt", when="after")]
CORRUPT_UPLOAD = [NetworkFault(what="corrupt", when="before"), NetworkFault(what="truncate", when="before")]

ONLY_S3 = [
    NetworkFault(
        what="answer", when=when, status=status, body=f"<Error><Code>{code}</Code></Error>".encode(), times=times
    )
    for when in ("before", "after")
    for status, code, times in [
        (412, "PreconditionFailed", 1),
        (409, "ConditionalRequestConflict", 1),
        (503, "SlowDown", 2),
    ]
]
ONLY_COMPLETE = [
    NetworkFault(
        what="answer", when=when, status=status, body=b"<Error><Code>InternalError</Code></Error>", times=times
    )
    for when in ("before", "after")
    for status in (500, 200)  # S3 does answer a Complete with 200 and an error in the body
    for times in (1, 2)
]
ONLY_SUBMIT = [
    NetworkFault(what="answer", when="before", status=status) for status in (400, 401, 402, 403, 404, 422, 429)
]
ONLY_POLL = [
    NetworkFault(what="answer", when="before", status=status, times=times)
    for status, times in [(404, 1), (404, 5), (410, 1), (401, 1), (403, 1)]
]


def faults_at(wire: Wire, request: Seen, server: str) -> list[NetworkFault]:
    """What can be done to one request. moto checks no checksum of what it is sent, SeaweedFS does."""
    line = f"{request.method} {request.path}"
    faults = BROKEN + ANSWERED + CUT
    if re.search(_MAY_BE_LATE, line):
        # Counted among the requests that may be late: a run with a fault need not send its requests in the same order.
        faults = faults + [replace(fault, matching=_MAY_BE_LATE) for fault in LATE]
    else:
        faults = faults + [fault for fault in LATE if fault.when == "after"]
    if not line.startswith("DELETE"):
        faults = faults + LYING
    if wire == "s3":
        faults = faults + CORRUPT + ONLY_S3
        if server != "moto" and request.method == "PUT":
            faults = faults + CORRUPT_UPLOAD
        if is_complete(request):
            faults = faults + ONLY_COMPLETE
    if wire == "api":
        faults = faults + (ONLY_SUBMIT if request.method == "POST" else [])
        faults = faults + (ONLY_POLL if "/tasks" in request.path else [])
    return faults


def is_multipart(request: Seen) -> bool:
    """Whether the request is of a video's multipart upload; the probe has one too."""
    return ".mp4" in request.path and ("uploads" in request.path or "uploadId=" in request.path)


def is_complete(request: Seen) -> bool:
    """Whether the request completes a multipart upload."""
    return request.method == "POST" and "uploadId=" in request.path


def place(wire: Wire, request: Seen) -> str:
    """What kind of request it is."""
    if wire == "api":
        return "submit" if request.method == "POST" else "read"
    if request.method == "PUT" and "record.json" in request.path:
        return "record"
    whole = request.method == "PUT" and ".mp4" in request.path and not is_multipart(request)
    return "object" if whole or is_complete(request) else wire


def kind(fault: NetworkFault) -> tuple[object, ...]:
    """Return the kind of a fault, which does not depend on the request."""
    status = fault.status if fault.status in (404, 412) else fault.status // 100
    return fault.what, fault.when, status if fault.what == "answer" else 0, fault.seconds, fault.times


def drawn(chance: random.Random, wire: Wire, server: str) -> NetworkFault:
    """Draw a random fault: its request, the number of requests in a row, and its byte."""
    faults = BROKEN + ANSWERED + CUT + [replace(fault, matching=_MAY_BE_LATE) for fault in LATE]
    faults = faults + [replace(fault, matching="^(?!DELETE )") for fault in LYING]
    if wire == "s3":
        faults = faults + CORRUPT + ONLY_S3
        if server != "moto":
            faults = faults + [replace(fault, matching="^PUT ") for fault in CORRUPT_UPLOAD]
        faults = faults + [replace(fault, matching="^POST .*uploadId=") for fault in ONLY_COMPLETE[:2]]
    if wire == "api":
        faults = faults + [replace(fault, matching="^POST ") for fault in ONLY_SUBMIT]
        faults = faults + [replace(fault, matching="^GET .*/tasks") for fault in ONLY_POLL]
    fault = chance.choice(faults)
    last = 1 if "POST" in fault.matching else {"api": 6, "s3": 30, "video": 2}[wire]
    if fault.when in ("mid_request", "mid_reply") and chance.random() < 0.7:
        fault = replace(fault, at_byte=int(10 ** chance.uniform(0, 4)))
    if fault.what == "answer" and chance.random() < 0.3:
        fault = replace(fault, times=chance.randint(2, 4))
    return replace(fault, at=chance.randint(0, last))
