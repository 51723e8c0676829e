"""Where a download goes and what it sends along; nothing here connects to anything."""

import logging
from collections.abc import Callable

import httpx
import pytest

from prefect_loova.download import Download, StartOverError
from prefect_loova.errors import NotWholeVideoError, TransferError, VideoUrlRefusedError

PUBLIC = "https://93.184.216.34"
VIDEO = f"{PUBLIC}/v.mp4?X-Amz-Signature=c0ffee"

Handler = Callable[[httpx.Request], httpx.Response]


class Peer:
    """Stands for a connection whose other end has this address."""

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
    """Answers the n-th request with the n-th redirect, and then with the video."""
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
async def test_only_public_https_addresses_are_asked_at_first_and_after_a_redirect(url: str) -> None:
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


async def test_private_addresses_and_http_are_fine_where_the_api_is_private() -> None:
    assert await read(redirects("http://10.1.2.3/v", "http://localhost:1/v"), "http://127.0.0.1/v", allow_private=True)


async def test_a_name_that_turns_out_to_lead_to_a_private_peer_is_refused() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(b"secret"), extensions={"network_stream": Peer("10.0.0.7")})

    with pytest.raises(VideoUrlRefusedError, match=r"private address 10\.0\.0\.7"):
        await read(handler)
    assert await read(handler, allow_private=True) == b"secret"


async def test_a_public_peer_is_fine() -> None:
    stream = {"network_stream": Peer("93.184.216.34")}
    assert await read(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"video"), extensions=stream)) == b"video"


async def test_behind_a_configured_proxy_addresses_are_the_proxys_business(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_nothing_of_the_clients_own_is_sent_to_the_host_or_behind_a_redirect() -> None:
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


async def test_no_signature_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await read(redirects(f"{PUBLIC}/1?X-Amz-Signature=c0ffee"))
    assert "93.184.216.34/v.mp4?..." in caplog.text
    assert "c0ffee" not in caplog.text


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400, 304, 204, 206, 300])
async def test_a_refusal_is_not_tried_again(status: int) -> None:
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
async def test_an_error_of_the_moment_is_tried_again_a_bounded_number_of_times(status: int) -> None:
    answers = [httpx.Response(status), httpx.Response(status, headers={"Retry-After": "100000"})]
    left = [*answers, httpx.Response(200, stream=httpx.ByteStream(b"video"))]
    assert await read(lambda _: left.pop(0)) == b"video"
    with pytest.raises(TransferError, match=f"byte 0, again and again; the last time with HTTP {status}") as caught:
        await read(lambda _: httpx.Response(status))
    assert type(caught.value) is TransferError


async def test_a_host_that_cannot_be_found_is_tried_again_and_named() -> None:
    with pytest.raises(TransferError, match="again and again") as caught:
        await read(redirects(), "https://no-such-host.invalid/v?s=c0ffee")
    assert "c0ffee" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["text/html; charset=utf-8", "application/json", "application/problem+json", "text/xml"]
)
async def test_a_page_is_not_a_video(kind: str) -> None:
    with pytest.raises(NotWholeVideoError, match="not a video"):
        await read(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"<html>"), headers={"Content-Type": kind}))


async def test_a_content_encoding_is_refused() -> None:
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"x"))
    with pytest.raises(VideoUrlRefusedError, match="Content-Encoding"):
        await read(lambda _: answer)


async def test_a_redirect_to_nowhere_is_refused() -> None:
    with pytest.raises(VideoUrlRefusedError, match="HTTP 302"):
        await read(lambda _: httpx.Response(302))


async def test_a_transport_that_ends_early_without_a_word_is_not_believed() -> None:
    left = [b"vid", b"video"]

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Length": "5"}, stream=httpx.ByteStream(left.pop(0)))

    with pytest.raises(StartOverError):
        await read(handler)
    with pytest.raises(NotWholeVideoError, match="at byte 3 of 5"):
        await read(
            lambda _: httpx.Response(200, headers={"Content-Length": "5"}, stream=httpx.ByteStream(b"vid")), tries=1
        )


async def test_a_transport_that_delivers_more_than_announced_is_not_believed() -> None:
    with pytest.raises(NotWholeVideoError, match="more bytes than it announced"):
        await read(lambda _: httpx.Response(200, headers={"Content-Length": "3"}, stream=httpx.ByteStream(b"video")))
