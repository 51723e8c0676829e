"""The body of a response, read from under httpx. If a test here fails, adapt `prefect_loova.transfer.body`."""

import random

import httpx
import pytest

from prefect_loova.transfer.body import PIECE_BYTES, read_body
from tests.support.video_host import Reply, VideoHost

BODY = random.Random(0).randbytes(8 * 1024**2)
HTTPX_READS = 64 * 1024


async def pieces_of(reply: Reply) -> list[bytes]:
    async with VideoHost(reply) as host, httpx.AsyncClient() as http, http.stream("GET", host.url("/v")) as response:
        return [piece async for piece in read_body(response, 5)]


async def test_a_body_of_known_length_is_read_in_larger_pieces_than_httpx_reads() -> None:
    pieces = await pieces_of(Reply(BODY))
    assert b"".join(pieces) == BODY
    assert HTTPX_READS < max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize("size", [0, 1, 1000, HTTPX_READS - 1, HTTPX_READS, 3 * HTTPX_READS + 5])
@pytest.mark.parametrize("chunked", [False, True])
async def test_every_byte_is_read_once_also_if_it_arrives_with_the_head(size: int, chunked: bool) -> None:
    assert b"".join(await pieces_of(Reply(BODY[:size], chunked=chunked, block=size or 1))) == BODY[:size]


async def test_a_body_that_is_cut_short_ends_early() -> None:
    assert b"".join(await pieces_of(Reply(BODY, cut=500_000))) == BODY[:500_000]


async def test_httpx_gives_access_to_the_connection() -> None:
    async with VideoHost(Reply(b"x")) as host, httpx.AsyncClient() as http, http.stream("GET", host.url("/v")) as reply:
        connection = reply.extensions["network_stream"]
        assert connection.get_extra_info("server_addr")[0] == "127.0.0.1"
        assert callable(connection.read)
