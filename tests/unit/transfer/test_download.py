"""The addresses and headers of a download. No test sends a request off this machine."""

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prefect_loova.errors import IncompleteVideoError, TransferError, VideoUrlRefusedError
from prefect_loova.transfer.download import Download, StartOverError
from tests.support.video_host import Reply, VideoHost

PUBLIC = "https://93.184.216.34"
VIDEO = f"{PUBLIC}/v.mp4?X-Amz-Signature=c0ffee"

Handler = Callable[[httpx.Request], httpx.Response]


class Peer:
    """A connection whose peer has this address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get_extra_info(self, name: str) -> object:
        return (self.address, 443) if name == "server_addr" else None


async def read(
    handler: Handler, url: str = VIDEO, *, allow_private: bool = False, tries: int = 3, **client: object
) -> bytes:
    async def no_wait(seconds: float) -> None:
        assert seconds <= 60

    http = httpx.AsyncClient(transport=httpx.MockTransport(handler), **client)  # type: ignore[arg-type]
    download = Download(url, http, allow_private=allow_private, max_bytes=10**6, tries=tries, sleep=no_wait)
    return b"".join([chunk async for chunk in download.chunks()])


def redirects(*locations: str) -> Handler:
    """Return the redirects one by one, and then the video."""
    left = list(locations)

    def handler(request: httpx.Request) -> httpx.Response:
        if left:
            return httpx.Response(302, headers={"Location": left.pop(0)})
        return httpx.Response(200, stream=httpx.ByteStream(b"video"))

    return handler


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_up_to_three_redirects_are_followed(count: int) -> None:
    assert await read(redirects(*[f"{PUBLIC}/{n}" for n in range(count)])) == b"video"


async def test_relative_redirects_are_followed() -> None:
    assert await read(redirects("/other?x=1", "//93.184.216.35/v")) == b"video"


async def test_a_fourth_redirect_is_refused() -> None:
    with pytest.raises(VideoUrlRefusedError, match="more than 3 times"):
        await read(redirects(*[f"{PUBLIC}/{n}" for n in range(4)]))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/v?s=c0ffee",
        "https://10.1.2.3/v?s=c0ffee",
        "https://169.254.169.254/latest/meta-data?s=c0ffee",
        "https://[::1]/v?s=c0ffee",
        "https://[::ffff:127.0.0.1]/v?s=c0ffee",
        "https://0x7f000001/v?s=c0ffee",
        "https://localhost/v?s=c0ffee",
        "https://user:c0ffee@93.184.216.34/v",
        "http://93.184.216.34/v?s=c0ffee",
        "ftp://93.184.216.34/v?s=c0ffee",
        "file:///etc/passwd?s=c0ffee",
    ],
)
async def test_only_public_https_addresses_get_a_request_at_first_and_after_a_redirect(url: str) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": url})

    for start, requests in ((url, 0), (VIDEO, 1)):
        asked.clear()
        with pytest.raises(VideoUrlRefusedError) as caught:
            await read(handler, start)
        assert len(asked) == requests
        assert "c0ffee" not in str(caught.value)
        assert caught.value.credits_spent == "yes"


async def test_private_addresses_and_http_are_allowed_if_the_api_is_private() -> None:
    assert await read(redirects("http://10.1.2.3/v", "http://localhost:1/v"), "http://127.0.0.1/v", allow_private=True)


async def test_a_response_from_a_private_peer_is_refused() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(b"secret"), extensions={"network_stream": Peer("10.0.0.7")})

    with pytest.raises(VideoUrlRefusedError, match=r"private address 10\.0\.0\.7"):
        await read(handler)
    assert await read(handler, allow_private=True) == b"secret"


async def test_a_response_from_a_public_peer_is_read() -> None:
    stream = {"network_stream": Peer("93.184.216.34")}
    assert await read(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"video"), extensions=stream)) == b"video"


async def test_behind_a_configured_proxy_addresses_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    stream = {"network_stream": Peer("10.0.0.7")}
    assert (
        await read(
            lambda _: httpx.Response(200, stream=httpx.ByteStream(b"v"), extensions=stream), "https://host.invalid/v"
        )
        == b"v"
    )
    monkeypatch.setenv("NO_PROXY", "93.184.216.34")
    with pytest.raises(VideoUrlRefusedError, match="private address"):
        await read(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"v"), extensions=stream))
    with pytest.raises(VideoUrlRefusedError, match="not https"):
        await read(redirects(), "http://host.invalid/v")


async def test_the_clients_headers_cookies_and_auth_are_never_sent() -> None:
    asked: list[httpx.Request] = []
    follow = redirects(f"{PUBLIC}/1", "https://93.184.216.35/2")

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = follow(request)
        answer.headers["Set-Cookie"] = "session=1; Path=/"
        return answer

    await read(
        handler,
        headers={"Authorization": "Bearer key", "X-Api-Key": "key"},
        cookies={"a": "b"},
        auth=("user", "password"),
    )
    assert len(asked) == 3
    for request in asked:
        assert set(request.headers) == {"host", "accept", "accept-encoding", "user-agent"}
        assert request.headers["accept-encoding"] == "identity"


LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")


def test_an_import_does_not_change_the_loggers_of_httpx() -> None:
    script = (
        "import logging, prefect_loova.transfer.copy, prefect_loova.jobs.save\n"
        f"print([name for name in {LOGGERS} if logging.getLogger(name).filters])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


async def test_downloads_add_one_filter_which_leaves_other_requests_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert await read(redirects()) == b"video"
    assert {len(logging.getLogger(name).filters) for name in LOGGERS} == {1}
    async with httpx.AsyncClient(transport=httpx.MockTransport(redirects())) as http:
        await http.get(f"{PUBLIC}/another?query=1")
    assert "another?query=1" in caplog.text and "c0ffee" not in caplog.text


async def test_no_signature_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await read(redirects(f"{PUBLIC}/1?X-Amz-Signature=c0ffee"))
    assert "93.184.216.34/v.mp4?..." in caplog.text
    assert "c0ffee" not in caplog.text


@pytest.mark.parametrize("scheme", ["", "//93.184.216.34", PUBLIC])
async def test_no_token_of_a_redirect_reaches_the_log(
    caplog: pytest.LogCaptureFixture, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real connection: httpcore logs the headers of a response."""
    caplog.set_level(logging.DEBUG)
    secret = "?token=c0ffee&auth_key=c0ffee"
    async with VideoHost() as host, httpx.AsyncClient() as http:
        redirect = {"Location": f"{scheme or host.url('')}/path-c0ffee{secret}", "Set-Cookie": "CloudFront=c0ffee"}
        relative = redirect | {"Location": f"/path-c0ffee{secret}#c0ffee"}
        host.replies = [Reply(status=302, headers=relative), Reply(status=302, headers=redirect), Reply(b"video")]
        download = Download(host.url("/v"), http, allow_private=True, max_bytes=10**6, tries=1, read_timeout=1)
        with contextlib.suppress(TransferError):
            assert b"".join([chunk async for chunk in download.chunks()]) == b"video"
    assert "receive_response_headers.complete" in caplog.text
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
    assert not [line for line in lines if "token=" in line or "auth_key" in line or "CloudFront" in line]
    assert not [line for line in lines if "c0ffee" in line and "HTTP Request" not in line]


@pytest.mark.parametrize(
    "location",
    ["https://[bad", "https://[::1", "https://a..b/v", f"https://{'a' * 64}.test/v", "https://host:port/v"],
)
@pytest.mark.parametrize("at_first", [True, False], ids=["the URL", "a redirect"])
async def test_an_invalid_url_is_refused_without_its_query_in_the_message(location: str, at_first: bool) -> None:
    url = f"{location}?s=c0ffee"
    with pytest.raises(VideoUrlRefusedError, match="URL") as caught:
        await read(redirects(url), *([url] if at_first else []))
    assert "c0ffee" not in str(caught.value)


async def test_a_redirect_over_the_wire_to_an_invalid_url_is_refused_at_once() -> None:
    redirect = Reply(status=302, headers={"Location": "https://[bad?s=c0ffee"})
    async with VideoHost(redirect) as host, httpx.AsyncClient() as http:
        download = Download(host.url("/v"), http, allow_private=True, max_bytes=10**6)
        with pytest.raises(VideoUrlRefusedError, match="not a URL"):
            await anext(download.chunks())
    assert len(host.asked) == 1


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let the n-th lookup of a name return the n-th list of addresses, and later lookups the last one."""
    left = list(answers)

    def getaddrinfo(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port))
            for family, address in zip(families, found, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_a_request_goes_to_the_checked_address_even_if_the_name_now_resolves_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with VideoHost(Reply(b"a secret of the house")) as host:
        resolving(monkeypatch, ["3ffe::1"], ["127.0.0.1"])  # the first is public, and of a network that was given back
        async with httpx.AsyncClient() as http:
            url = f"http://rebound.test:{host.port}/v"
            download = Download(
                url, http, allow_private=False, max_bytes=10**6, tries=1, read_timeout=0.3, is_look=True
            )
            with pytest.raises(TransferError):
                await anext(download.chunks())
    assert host.asked == []


@pytest.mark.parametrize("private", ["10.0.0.1", "127.0.0.1", "169.254.169.254"])
async def test_a_name_with_any_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, private: str) -> None:
    resolving(monkeypatch, ["93.184.216.34", private])
    with pytest.raises(VideoUrlRefusedError, match=f"private address {private}"):
        await read(redirects(), "https://rebound.test/v")


async def test_each_address_of_a_name_is_tried_until_one_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["93.184.216.34", "2606:4700::1111", "93.184.216.35"])
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) < 3:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(200, stream=httpx.ByteStream(b"video"))

    assert await read(handler, "https://v\u00eddeo.test:8443/v.mp4?a=b") == b"video"
    assert [request.url.host for request in asked] == ["93.184.216.34", "2606:4700::1111", "93.184.216.35"]
    for request in asked:
        assert request.headers["host"] == "xn--vdeo-vpa.test:8443"
        assert request.extensions["sni_hostname"] == "xn--vdeo-vpa.test"
        assert (request.url.port, request.url.raw_path) == (8443, b"/v.mp4?a=b")
        assert request.headers["connection"] == "close"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400, 304, 204, 206, 300])
async def test_a_refusal_is_not_retried(status: int) -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status)

    with pytest.raises(VideoUrlRefusedError, match=f"HTTP {status}") as caught:
        await read(handler)
    assert len(asked) == 1
    assert caught.value.http_status == status
    assert "c0ffee" not in str(caught.value)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408, 425])
async def test_a_transient_error_is_retried_a_bounded_number_of_times(status: int) -> None:
    answers = [httpx.Response(status), httpx.Response(status, headers={"Retry-After": "100000"})]
    left = [*answers, httpx.Response(200, stream=httpx.ByteStream(b"video"))]
    assert await read(lambda _: left.pop(0)) == b"video"
    with pytest.raises(
        TransferError, match=f"at byte 0: too many requests failed in a row, the last one with HTTP {status}"
    ) as caught:
        await read(lambda _: httpx.Response(status))
    assert type(caught.value) is TransferError


async def test_a_host_that_does_not_resolve_is_retried_and_named() -> None:
    with pytest.raises(TransferError, match="too many requests failed in a row") as caught:
        await read(redirects(), "https://no-such-host.invalid/v?s=c0ffee")
    assert "c0ffee" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["text/html; charset=utf-8", "application/json", "application/problem+json", "text/xml"]
)
async def test_a_page_is_not_a_video(kind: str) -> None:
    with pytest.raises(IncompleteVideoError, match="not a video"):
        await read(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"<html>"), headers={"Content-Type": kind}))


async def test_a_content_encoding_is_refused() -> None:
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"x"))
    with pytest.raises(VideoUrlRefusedError, match="Content-Encoding"):
        await read(lambda _: answer)


async def test_a_redirect_without_a_location_is_refused() -> None:
    with pytest.raises(VideoUrlRefusedError, match="HTTP 302"):
        await read(lambda _: httpx.Response(302))


async def test_a_body_shorter_than_announced_is_not_accepted() -> None:
    left = [b"vid", b"video"]

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Length": "5"}, stream=httpx.ByteStream(left.pop(0)))

    with pytest.raises(StartOverError):
        await read(handler)
    with pytest.raises(IncompleteVideoError, match="at byte 3 of 5"):
        await read(
            lambda _: httpx.Response(200, headers={"Content-Length": "5"}, stream=httpx.ByteStream(b"vid")), tries=1
        )


async def test_a_body_longer_than_announced_is_not_accepted() -> None:
    with pytest.raises(IncompleteVideoError, match="more bytes than it announced"):
        await read(lambda _: httpx.Response(200, headers={"Content-Length": "3"}, stream=httpx.ByteStream(b"video")))
