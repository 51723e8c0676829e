"""The Loova API over HTTP: models or errors out.

Reads are asked again within bounds when they fail; a submit is sent once, on a connection of its own, and never
repeated here, because it costs money and cannot be taken back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from prefect_loova._api.messages import PHRASE_RULE, SHORTEST_PHRASE, folded
from prefect_loova._api.responses import Answer, read_credits, read_submit, read_task
from prefect_loova._api.task_ids import evidence_of_task_in_text
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
from prefect_loova.models.media import Medium, shown_media
from prefect_loova.models.request import CreditBalance, VideoRequest, VideoTask

DEFAULT_BASE_URL = "https://api.loova.ai/api"
"""The quickstart's base URL; some other pages print https://api.loova.ai without `/api`."""

USER_AGENT = f"prefect-loova/{version('prefect-loova')}"

_MOST_BYTES = 4 * 1024 * 1024
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_STEPS_BEFORE = ("connection.", "proxy.", "http11.response_closed.")
"""The steps of httpcore that come before a request, or after all; also those of a CONNECT to a proxy."""
_LAST_READ = 1.0
"""For how many seconds more the answer to a submit is read when its time is over."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

# Where the base URL is http: a context that trusts nobody, without the 20 ms that loading certificates takes.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

log = logging.getLogger(__name__)

T = TypeVar("T")


_SLOWEST = 125_000.0
"""The slowest upload of a form that is waited for, in bytes a second."""


class FormFile(NamedTuple):
    """A medium that goes with a submit as a part of its form."""

    name: str
    content: bytes
    media_type: str


def _base_url_problem(base_url: str) -> str | None:
    if set("?#") & set(base_url):
        return "must be a URL without a query"
    try:
        httpx.URL(base_url).host  # noqa: B018  (raises on a name that is none, before it could look like a lost answer)
    except (httpx.InvalidURL, UnicodeError):
        return "must be a URL with a valid host"
    return None


class LoovaClient:
    """A client of the Loova API, to be used as an async context manager.

    Args:
        api_key: The API key of the Loova dashboard.
        base_url: Where the API's `/v1` is.
        timeout: The longest silence of a read, in seconds.
        submit_timeout: The whole time that a submit may take, in seconds. After it the submit is in doubt.
        read_tries: How often a read is tried in all.
        unavailable_means_refused: Count a 503 to a submit as a refusal instead of a doubt. Only for those who know
            that their way to Loova answers 503 before the request is passed on.
        refusal_phrases: Parts of messages that refuse a submit, in any case. An answer whose message has one of them
            in it is a refusal, where it could be one (HTTP 200, 3xx, 4xx) and nothing in it may name a task.
        transport: Another httpx transport, for tests.
        sleep: How to wait, in seconds.
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
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not (api_key or "").strip():
            raise InvalidRequestError("api_key: is empty; make a key in the Loova dashboard")
        if not (api_key.strip().isascii() and api_key.strip().isprintable()):
            raise InvalidRequestError("api_key: holds characters that no HTTP header can carry")
        blank = [phrase for phrase in refusal_phrases if len(folded(phrase)) < SHORTEST_PHRASE]
        if blank:
            raise InvalidRequestError(f"refusal_phrases: {blank[0]!r} was given: {PHRASE_RULE}")
        problem = url_problem(base_url) or _base_url_problem(base_url)
        if problem:
            raise InvalidRequestError(f"base_url: {problem}")
        self.base_url = base_url.rstrip("/")
        self.origin = origin(base_url)
        self.is_private = is_private_host(base_url)
        self.submit_timeout = submit_timeout
        self._api_key = api_key.strip()
        self._timeout = timeout
        self._read_tries = max(1, read_tries)
        self._unavailable_means_refused = unavailable_means_refused
        self._refusal_phrases = tuple(refusal_phrases)
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
        """Refuse what Loova cannot fetch: media URLs on private addresses, unless the API itself is on one.

        Raises:
            InvalidRequestError: Names the field, the URL and the rule.
        """
        if self.is_private:
            return
        problems = []
        for field, texts in request.media().items():
            for number, text in enumerate(texts):
                if Medium.read(text).source == "web" and is_private_host(text):
                    host = urlsplit(text).hostname
                    problems.append(f"{field}.{number}: {host!r} was given: Loova cannot reach a private address")
        if problems:
            raise InvalidRequestError("\n".join(problems))

    def submit_seconds(self, files: Sequence[FormFile] = ()) -> float:
        """The whole time that a submit may take, in seconds: `submit_timeout`, and more where files go with it."""
        return self.submit_timeout + sum(len(file.content) for file in files) / _SLOWEST

    async def submit_video(
        self, request: VideoRequest, files: Sequence[FormFile] = (), *, is_fresh: Callable[[], bool] = lambda: True
    ) -> VideoTask:
        """Buy one video: a single POST, never repeated (create-seedance-2-video-task).

        Args:
            request: The video to be made; its media must be URLs here.
            files: Media that are sent along, as a multipart form. Only the vendor's own client describes that form.
            is_fresh: Asked last of all, when the body is to leave: if it says no, the body does not leave.

        Raises:
            InvalidRequestError: Refused here; nothing was sent.
            SuspendedError: It was too late to send it; nothing was bought.
            NotSentError: The POST never left; nothing was bought.
            RejectedError: Loova said no; nothing was bought.
            InDoubtError: It was sent, and no answer tells whether it was bought.
        """
        self.check(request)
        content = _content_of(request, files)
        most = self.submit_seconds(files)
        sending, arrived = _Sending(most, is_fresh), bytearray()
        # A fresh connection: one that the server has just closed would look like a lost answer. The whole time is
        # watched by `_Sending`: a timeout of httpx would throw away an answer that lies in the socket.
        timeout = httpx.Timeout(None, connect=min(self._timeout, self.submit_timeout / 2))
        async with self._http(timeout) as http:
            try:
                content["extensions"] = {"trace": sending.trace}
                answer = await sending.result(
                    self._answer(http, "POST", "/v1/video/seedance-2", arrived=arrived, **content)
                )
            except (TimeoutError, httpx.HTTPError, ValueError) as error:
                if isinstance(error, _NOT_SENT) or sending.surely_not_sent:
                    raise NotSentError(f"could not connect to {self.origin}: {self._safe(error)}") from None
                message = f"the submit was sent to {self.origin} and its answer is lost: {self._safe(error)}"
                named = evidence_of_task_in_text(bytes(arrived)) if arrived else None
                if named:
                    message += f"; of what arrived of it, {hide_secrets(named, self._api_key)} may name the task"
                raise InDoubtError(message, credits_spent="maybe") from None
        try:
            return read_submit(answer, self._unavailable_means_refused, self._refusal_phrases)
        except LoovaError as error:
            error.request = f"POST /v1/video/seedance-2 at {self._host}"
            raise

    async def get_task(self, task_id: str) -> VideoTask:
        """Look at one Loova task once (get-task-status).

        Raises:
            TaskNotFoundError: Loova does not know it.
            AuthenticationError: Loova does not accept the API key.
            UnexpectedResponseError: No usable answer, after all tries.
        """
        try:
            return await self._read("/v1/tasks", lambda answer: read_task(answer, task_id), {"task_id": task_id})
        except LoovaError as error:
            error.task_id = error.task_id or task_id
            raise

    async def get_credits(self, *, tries: int | None = None) -> CreditBalance:
        """The API credits of the account (check-api-credits).

        Args:
            tries: How often to ask in all; the client's `read_tries`, if not given.

        Raises:
            AuthenticationError: Loova does not accept the API key.
            UnexpectedResponseError: No usable answer, after all tries.
        """
        return await self._read("/v1/credits", read_credits, {}, tries)

    async def _read(
        self, path: str, parse: Callable[[Answer], T], params: dict[str, str], tries: int | None = None
    ) -> T:
        tries = tries or self._read_tries
        if self._reads is None:
            raise RuntimeError("use the client as `async with LoovaClient(...) as loova:`")
        try:
            return await self._read_again_and_again(self._reads, path, parse, params, tries)
        except LoovaError as error:
            error.request = f"GET {path} at {self._host}"
            raise

    async def _read_again_and_again(
        self, http: httpx.AsyncClient, path: str, parse: Callable[[Answer], T], params: dict[str, str], tries: int
    ) -> T:
        for attempt in range(tries):
            pause = None
            try:
                async with asyncio.timeout(2 * self._timeout):
                    answer = await self._answer(http, "GET", path, params=params)
                if not {answer.http_status, answer.code} & _AGAIN:
                    return parse(answer)
                pause = retry_after(answer.retry_after)
                failure: LoovaError = answer.error(UnexpectedResponseError, "Loova did not answer as documented")
            except (TimeoutError, httpx.HTTPError, ValueError) as error:
                failure = UnexpectedResponseError(f"no answer from {self.origin}: {self._safe(error)}")
            if attempt + 1 < tries:
                pause = backoff(attempt) if pause is None else pause
                log.debug("GET %s failed (%s), again in %.1f s", path, failure, pause)
                await self._sleep(pause)
        raise failure

    async def _answer(
        self, http: httpx.AsyncClient, method: str, path: str, arrived: bytearray | None = None, **content: Any
    ) -> Answer:
        headers = {"Authorization": f"Bearer {self._api_key}"}
        body = bytearray() if arrived is None else arrived
        async with http.stream(method, self.base_url + path, headers=headers, **content) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise ValueError(f"the answer is over {_MOST_BYTES} bytes")
        got = response.headers
        answer = Answer.read(response.status_code, bytes(body), got.get("Retry-After"), location=got.get("Location"))
        return answer.without(self._api_key)

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
    """One POST on its way: whether its body may still leave, whether it may have left, and its answer within a time.

    Args:
        seconds: How long it may take in all.
        is_fresh: Whether it may still be sent.
    """

    def __init__(self, seconds: float, is_fresh: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._is_fresh = is_fresh
        self._ends = math.inf
        self._is_connecting = False
        self._may_have_left = False

    @property
    def surely_not_sent(self) -> bool:
        """Whether httpcore was seen to connect, and to do nothing else. A transport that tells nothing is not known."""
        return self._is_connecting and not self._may_have_left

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpcore before and after each of its steps. A step of an unknown name counts as sending."""
        if event.endswith((".complete", ".failed")):
            return  # It ends a step that was seen to begin.
        request = info.get("request")
        is_tunnel = request is not None and request.method == b"CONNECT"
        if is_tunnel or event.startswith(_STEPS_BEFORE):
            self._is_connecting = True
            return
        is_late = asyncio.get_running_loop().time() >= self._ends
        if event == "http11.send_request_body.started" and (is_late or not self._is_fresh()):
            raise SuspendedError(
                "this process was stopped for too long just before the submit left, so it was not sent; nothing was "
                "bought"
            )
        self._may_have_left = True

    async def result(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which this runs.

        A process that was stopped, or whose loop was held up, for longer than the time has an answer in its socket
        that nobody has read: once the POST has left, the loop goes on for a moment.

        Raises:
            TimeoutError: There is none in time.
        """
        self._ends = asyncio.get_running_loop().time() + self._seconds
        working = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({working}, timeout=self._seconds)
            if not done and self._may_have_left:
                await asyncio.wait({working}, timeout=_LAST_READ)
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        if working.cancelled():
            raise TimeoutError
        return working.result()


def _content_of(request: VideoRequest, files: Sequence[FormFile]) -> dict[str, Any]:
    """The body of a submit, for httpx: JSON, or the form with the same flat fields, lists as repeated keys."""
    for field, texts in request.media().items():
        for number, text in enumerate(texts):
            if Medium.read(text).source != "web":
                raise InvalidRequestError(
                    f"{field}.{number}: {shown_media(text)!r} was given: must be a URL here; the task submit_video "
                    "takes local files and S3 objects too"
                )
    body = request.body()
    if not files:
        return {"json": body}
    body["functionMode"] = body["function_mode"]  # as the vendor's client spells it in this form, its only source
    return {"data": body, "files": [("files", tuple(file)) for file in files]}
