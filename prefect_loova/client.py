"""The HTTP client of the Loova API. It returns models or raises errors.

The client retries a failed read a few times. It sends a submit once, on a new connection, and never retries it,
because a submit costs money and cannot be undone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from prefect_loova._api.messages import PHRASE_RULE, SHORTEST_PHRASE, normalize
from prefect_loova._api.responses import ApiResponse, parse_credits, parse_submit, parse_task
from prefect_loova._api.task_ids import find_task_evidence_in_text
from prefect_loova._api.tls import tls_context
from prefect_loova._redaction import hide_secrets
from prefect_loova._timing import backoff, retry_after
from prefect_loova._urls import is_private_host, origin, url_problem
from prefect_loova.errors import (
    InDoubtError,
    InvalidRequestError,
    LoovaError,
    NotSentError,
    SuspendedError,
    UnexpectedResponseError,
    redact,
)
from prefect_loova.models.media import Medium, redact_media
from prefect_loova.models.prices import VideoModel, models_with
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import CreditBalance, VideoTask

DEFAULT_BASE_URL = "https://api.loova.ai/api"
"""The quickstart's base URL; some other pages print https://api.loova.ai without `/api`."""

USER_AGENT = f"prefect-loova/{version('prefect-loova')}"

_MOST_BYTES = 4 * 1024 * 1024
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_STEPS_BEFORE = ("connection.", "proxy.", "http11.response_closed.")
"""httpcore's steps before a request (also a CONNECT to a proxy) and after the response."""
_LAST_READ = 1.0
"""Seconds for which a submit that timed out still reads its answer."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})

# For http base URLs. This context trusts no certificate and saves the 20 ms that loading them takes.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

log = logging.getLogger(__name__)

T = TypeVar("T")


_SLOWEST_UPLOAD = 125_000.0
"""Bytes a second. A slower upload of a form times out."""


class FormFile(NamedTuple):
    """A medium that a submit sends as a part of its form."""

    name: str
    content: bytes
    media_type: str


def _base_url_problem(base_url: str) -> str | None:
    if set("?#") & set(base_url):
        return "must be a URL without a query"
    try:
        httpx.URL(base_url).host  # noqa: B018  (raises on an invalid name, which would look like a lost answer later)
    except (httpx.InvalidURL, UnicodeError):
        return "must be a URL with a valid host"
    return None


class LoovaClient:
    """A client of the Loova API. Use it as an async context manager.

    Args:
        api_key: The API key from the Loova dashboard.
        base_url: The URL above the API's `/v1`.
        timeout: Seconds without any byte after which a read times out.
        submit_timeout: Seconds that a submit may take in all. After that time the submit is in doubt.
        read_tries: The number of tries of a read.
        unavailable_means_refused: Count a 503 to a submit as a refusal, not as a doubt. Set this only if you know that
            a proxy or gateway on your way to Loova answers 503 before it passes the request on.
        refusal_phrases: Parts of messages that refuse a submit, in any case. An answer with one of them in its message
            is a refusal if its HTTP status is 200, 3xx or 4xx and nothing in it may name a task.
        content_phrases: Likewise, parts of messages with which Loova refuses the content of a request or of a video.
        models: Your own models, beside the documented ones. One of the same name replaces a documented one.
        transport: Another httpx transport, for tests.
        sleep: Waits for a number of seconds; for tests.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeout: float = 30.0,
        submit_timeout: float = 60.0,
        read_tries: int = 4,
        unavailable_means_refused: bool = False,
        refusal_phrases: Sequence[str] = (),
        content_phrases: Sequence[str] = (),
        models: Iterable[VideoModel] = (),
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not (api_key or "").strip():
            raise InvalidRequestError("api_key: is empty; create a key in the Loova dashboard")
        if not (api_key.strip().isascii() and api_key.strip().isprintable()):
            raise InvalidRequestError("api_key: contains characters that are not allowed in an HTTP header")
        for name, phrases in (("refusal_phrases", refusal_phrases), ("content_phrases", content_phrases)):
            too_short = [phrase for phrase in phrases if len(normalize(phrase)) < SHORTEST_PHRASE]
            if too_short:
                raise InvalidRequestError(f"{name}: {too_short[0]!r} was given: {PHRASE_RULE}")
        problem = url_problem(base_url) or _base_url_problem(base_url)
        if problem:
            raise InvalidRequestError(f"base_url: {problem}")
        self.base_url = base_url.rstrip("/")
        self.origin = origin(base_url)
        self.is_private = is_private_host(base_url)
        self.submit_timeout = submit_timeout
        self.models = models_with(models)
        self._api_key = api_key.strip()
        self._timeout = timeout
        self._read_tries = max(1, read_tries)
        self._unavailable_means_refused = unavailable_means_refused
        self._refusal_phrases = tuple(refusal_phrases)
        self._content_phrases = tuple(content_phrases)
        self._transport = transport
        self._sleep = sleep
        self._reads: httpx.AsyncClient | None = None
        self._ssl: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    async def __aenter__(self) -> Self:
        if self.base_url.lower().startswith("https"):
            self._ssl = tls_context()
        self._reads = self._http(httpx.Timeout(self._timeout))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reads is not None:
            await self._reads.aclose()
            self._reads = None

    def check(self, request: VideoRequest) -> None:
        """Raise if the request breaks a rule of its model, or if Loova cannot fetch a media URL of it.

        A model must be known, and its price too, unless it has `max_credits`. Loova cannot fetch a URL if its address
        is private and the API's address is not.

        Raises:
            InvalidRequestError: Names the field, the value and the rule.
        """
        if request.takes != 1:
            raise InvalidRequestError(
                f"takes: {request.takes} was given: must be 1 here, because this is one video; a list "
                "(generate_videos, generate_from_manifest) makes several takes of a request"
            )
        request.check_model(self.models)
        if self.is_private:
            return
        problems = []
        for field, texts in request.media().items():
            for number, text in enumerate(texts):
                if Medium.parse(text).source == "web" and is_private_host(text):
                    host = urlsplit(text).hostname
                    problems.append(f"{field}.{number}: {host!r} was given: Loova cannot reach a private address")
        if problems:
            raise InvalidRequestError("\n".join(problems))

    def submit_seconds(self, files: Sequence[FormFile] = ()) -> float:
        """Return the seconds that a submit may take in all: `submit_timeout`, plus time to upload the files."""
        return self.submit_timeout + sum(len(file.content) for file in files) / _SLOWEST_UPLOAD

    async def submit_video(
        self, request: VideoRequest, files: Sequence[FormFile] = (), *, is_fresh: Callable[[], bool] = lambda: True
    ) -> VideoTask:
        """Buy one video with a single POST (create-seedance-2-video-task). The POST is never retried.

        Args:
            request: The video to make. All its media must be URLs.
            files: Media to send as a multipart form. Only the vendor's own client documents that form.
            is_fresh: Called right before the body is sent. If it returns False, the body is not sent.

        Raises:
            InvalidRequestError: The request is invalid; nothing was sent.
            SuspendedError: `is_fresh` returned False, or the time was over; nothing was bought.
            NotSentError: The POST was not sent; nothing was bought.
            RejectedError: Loova refused the request; nothing was bought.
            InDoubtError: The POST was sent, and no answer says whether the video was bought.
        """
        self.check(request)
        content, path = _content_of(request, files), self.models[request.model].path
        sending, received = _Sending(self.submit_seconds(files), is_fresh), bytearray()
        # A new connection, because a reused one that the server just closed would look like a lost answer. `_Sending`
        # limits the whole time, because a timeout of httpx would discard an answer that is already in the socket.
        timeout = httpx.Timeout(None, connect=min(self._timeout, self.submit_timeout / 2))
        async with self._http(timeout) as http:
            try:
                content["extensions"] = {"trace": sending.trace}
                post = self._request(http, "POST", path, received=received, **content)
                response = await sending.result(asyncio.create_task(post))
            except (TimeoutError, httpx.HTTPError, ValueError) as error:
                if isinstance(error, _NOT_SENT) or sending.surely_not_sent:
                    raise NotSentError(f"could not connect to {self.origin}: {self._safe(error)}") from None
                message = f"the submit was sent to {self.origin} and its answer is lost: {self._safe(error)}"
                evidence = find_task_evidence_in_text(bytes(received)) if received else None
                if evidence:
                    message += f"; in the part that arrived, {hide_secrets(evidence, self._api_key)} may name the task"
                raise InDoubtError(message, credits_spent="maybe") from None
        try:
            return parse_submit(response, self._unavailable_means_refused, self._refusal_phrases, self._content_phrases)
        except LoovaError as error:
            error.request = f"POST {path} at {self._host}"
            raise

    async def get_task(self, task_id: str) -> VideoTask:
        """Poll one Loova task once (get-task-status).

        Raises:
            TaskNotFoundError: Loova does not know the task.
            AuthenticationError: Loova does not accept the API key.
            UnexpectedResponseError: No try got a usable response.
        """
        parse = partial(parse_task, task_id=task_id, content_phrases=self._content_phrases)
        try:
            return await self._read("/v1/tasks", parse, {"task_id": task_id})
        except LoovaError as error:
            error.task_id = error.task_id or task_id
            raise

    async def get_credits(self, *, tries: int | None = None) -> CreditBalance:
        """Return the API credits of the account (check-api-credits).

        Args:
            tries: The number of tries; by default the client's `read_tries`.

        Raises:
            AuthenticationError: Loova does not accept the API key.
            UnexpectedResponseError: No try got a usable response.
        """
        return await self._read("/v1/credits", parse_credits, {}, tries)

    async def _read(
        self, path: str, parse: Callable[[ApiResponse], T], params: dict[str, str], tries: int | None = None
    ) -> T:
        if self._reads is None:
            raise RuntimeError("use the client as `async with LoovaClient(...) as loova:`")
        try:
            return await self._retry_read(self._reads, path, parse, params, tries or self._read_tries)
        except LoovaError as error:
            error.request = f"GET {path} at {self._host}"
            raise

    async def _retry_read(
        self, http: httpx.AsyncClient, path: str, parse: Callable[[ApiResponse], T], params: dict[str, str], tries: int
    ) -> T:
        for attempt in range(tries):
            pause = None
            try:
                async with asyncio.timeout(2 * self._timeout):
                    response = await self._request(http, "GET", path, params=params)
                if not {response.http_status, response.code} & _RETRIED:
                    return parse(response)
                pause = retry_after(response.retry_after)
                failure: LoovaError = response.error(UnexpectedResponseError, "Loova did not respond as documented")
            except (TimeoutError, httpx.HTTPError, ValueError) as error:
                failure = UnexpectedResponseError(f"no response from {self.origin}: {self._safe(error)}")
            if attempt + 1 < tries:
                pause = backoff(attempt) if pause is None else pause
                log.debug("GET %s failed (%s); retrying in %.1f s", path, failure, pause)
                await self._sleep(pause)
        raise failure

    async def _request(
        self, http: httpx.AsyncClient, method: str, path: str, received: bytearray | None = None, **content: Any
    ) -> ApiResponse:
        headers = {"Authorization": f"Bearer {self._api_key}"}
        body = bytearray() if received is None else received
        async with http.stream(method, self.base_url + path, headers=headers, **content) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise ValueError(f"the response is over {_MOST_BYTES} bytes")
        retry, location = response.headers.get("Retry-After"), response.headers.get("Location")
        return ApiResponse.parse(response.status_code, bytes(body), retry, location).without(self._api_key)

    def _http(self, timeout: httpx.Timeout) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            timeout=timeout,
            transport=self._transport,
            verify=self._ssl or _NO_TLS,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            follow_redirects=False,
        )

    @property
    def _host(self) -> str:
        return self.origin.partition("://")[2]

    def _safe(self, error: BaseException) -> str:
        text = redact(hide_secrets(str(error), self._api_key), 300)
        return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Sending:
    """One submit: stops its body if it is too late, knows whether it was sent, and waits for the answer.

    Args:
        seconds: The seconds that the POST may take in all.
        is_fresh: Returns whether the body may still be sent.
    """

    def __init__(self, seconds: float, is_fresh: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._is_fresh = is_fresh
        self._ends = math.inf
        self._is_connecting = False
        self._may_be_sent = False

    @property
    def surely_not_sent(self) -> bool:
        """Whether httpcore reported connecting and nothing else. A transport that reports no steps proves nothing."""
        return self._is_connecting and not self._may_be_sent

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Record a step that httpcore reports, before and after it. A step with an unknown name counts as sending."""
        if event.endswith((".complete", ".failed")):
            return
        request = info.get("request")
        is_tunnel = request is not None and request.method == b"CONNECT"
        if is_tunnel or event.startswith(_STEPS_BEFORE):
            self._is_connecting = True
            return
        is_late = asyncio.get_running_loop().time() >= self._ends
        if event == "http11.send_request_body.started" and (is_late or not self._is_fresh()):
            raise SuspendedError(
                "this process was suspended too long right before the submit, so it was not sent; nothing was bought"
            )
        self._may_be_sent = True

    async def result(self, post: asyncio.Task[T]) -> T:
        """Wait for the POST, which was just started, and return its result.

        If this process was suspended, or its event loop blocked, until the time was over, the answer may wait unread in
        the socket. So a POST that was sent gets one more second.

        Raises:
            TimeoutError: The POST did not end in time.
        """
        self._ends = asyncio.get_running_loop().time() + self._seconds
        try:
            done, _ = await asyncio.wait({post}, timeout=self._seconds)
            if not done and self._may_be_sent:
                await asyncio.wait({post}, timeout=_LAST_READ)
        finally:
            if not post.done():
                post.cancel()
                await asyncio.wait({post})
        if post.cancelled():
            raise TimeoutError
        return post.result()


def _content_of(request: VideoRequest, files: Sequence[FormFile]) -> dict[str, Any]:
    """Return httpx's arguments for the body: JSON, or a form with the same fields and lists as repeated keys."""
    for field, texts in request.media().items():
        for number, text in enumerate(texts):
            if Medium.parse(text).source != "web":
                raise InvalidRequestError(
                    f"{field}.{number}: {redact_media(text)!r} was given: must be a URL here; the task submit_video "
                    "also accepts local files and S3 objects"
                )
    body = request.body()
    if not files:
        return {"json": body}
    body["functionMode"] = body["function_mode"]  # the vendor's client, the only source of this form, spells it so
    return {"data": body, "files": [("files", tuple(file)) for file in files]}
