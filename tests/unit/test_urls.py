"""URLs: which API a URL belongs to, what leads to a private network, and what of a URL is content."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova._url_signatures import without_signature
from prefect_loova._urls import (
    addresses_of,
    is_private_host,
    is_public_address,
    origin,
    url_problem,
    without_secrets,
)

# Others share this machine: slow is not wrong.


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.loova.ai/api", "https://api.loova.ai"),
        ("HTTPS://API.Loova.AI:443/v1/?x#y", "https://api.loova.ai"),
        ("http://127.0.0.1:8765/api", "http://127.0.0.1:8765"),
        ("http://h.test:80", "http://h.test"),
        ("http://h.test:443", "http://h.test:443"),
        ("https://h.test:80", "https://h.test:80"),
        ("https://user:pw@h.test/", "https://h.test"),
        ("https://[2606:4700::1]:8443/x", "https://[2606:4700::1]:8443"),
    ],
)
def test_an_origin_is_scheme_host_and_port_in_one_spelling(url: str, expected: str) -> None:
    assert origin(url) == expected
    assert origin(origin(url)) == expected


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[fe80::1%25eth0]",
        "[fd00::1]",
        "[ff02::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "foo.local",
        "db.internal",
        "metadata.google.internal",
        "router.lan",
        "nas.home.arpa",
        "intranet",
    ],
)
def test_a_host_that_is_not_public_is_recognized_by_its_name(host: str) -> None:
    for url in (f"https://{host}", f"http://{host}:8000/a.png?b", f"https://user@{host}/"):
        assert is_private_host(url)


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "134744072",
        "172.32.0.1",
        "[2606:4700::1111]",
        "[::ffff:8.8.8.8]",
        "example.com",
        "example.com.",
        "api.loova.ai",
        "localhost.example.com",
        "mylocal.com",
        "notlocalhost.com",
        "10.0.0.1.example.com",
    ],
)
def test_a_public_host_is_not_taken_for_a_private_one(host: str) -> None:
    assert not is_private_host(f"https://{host}/a.png")


ADDRESSES = {
    "8.8.8.8": True,
    "1.1.1.1": True,
    "172.15.255.255": True,
    "172.32.0.0": True,
    "100.63.255.255": True,
    "100.128.0.0": True,
    "192.0.1.0": True,
    "223.255.255.255": True,
    "0.0.0.0": False,
    "10.0.0.1": False,
    "100.64.0.1": False,
    "127.0.0.1": False,
    "169.254.169.254": False,
    "172.16.0.1": False,
    "172.31.255.255": False,
    "192.0.0.9": False,  # public from Python 3.13 on, and no host of the internet
    "192.0.2.1": False,
    "192.168.0.1": False,
    "198.18.0.1": False,
    "198.51.100.1": False,
    "203.0.113.1": False,
    "224.0.0.1": False,
    "240.0.0.1": False,
    "255.255.255.255": False,
    "2606:4700::1111": True,
    "2a00:1450:4001:80b::200e": True,
    "3ffe::1": True,
    "::": False,
    "::1": False,
    "::8.8.8.8": False,
    "::10.0.0.1": False,
    "::127.0.0.1": False,
    "::ffff:8.8.8.8": True,
    "::ffff:10.0.0.1": False,
    "::ffff:169.254.169.254": False,
    "::ffff:0:10.0.0.1": False,
    "64:ff9b::8.8.8.8": True,
    "64:ff9b::10.0.0.1": False,
    "64:ff9b::169.254.169.254": False,
    "64:ff9b:1::8.8.8.8": False,
    "64:ff9b:1::10.0.0.1": False,
    "2002:808:808::1": True,  # 6to4 of 8.8.8.8
    "2002:a00:1::1": False,  # of 10.0.0.1
    "2002:7f00:1::": False,  # of 127.0.0.1
    "2002:a9fe:a9fe::": False,  # of 169.254.169.254
    "2001:0:808:808::f5ff:fffe": False,  # Teredo of 10.0.0.1
    "2001:0:a00:1::f7f7:f7f7": False,  # Teredo of 8.8.8.8 by a server at 10.0.0.1
    "2001:1::1": False,
    "2001:2::1": False,
    "2001:20::1": False,
    "2001:db8::1": False,
    "2001:200::1": True,
    "3fff::1": False,
    "100::1": False,
    "5f00::1": False,
    "fc00::1": False,
    "fd12:3456::1": False,
    "fe80::1": False,
    "fe80::1%eth0": False,
    "fec0::1": False,
    "ff02::1": False,
    "4000::1": False,
}
"""Whether each is an address of the public internet, on every Python."""


@pytest.mark.parametrize("address", ADDRESSES)
def test_which_addresses_are_public(address: str) -> None:
    assert is_public_address(address) == ADDRESSES[address]


@given(st.ip_addresses(v=4))
def test_an_address_that_contains_another_is_public_only_if_that_one_is(address: Any) -> None:
    public, high, low = is_public_address(str(address)), int(address) >> 16, int(address) & 0xFFFF
    assert is_public_address(f"64:ff9b::{address}") == public
    assert is_public_address(f"2002:{high:x}:{low:x}::1") == public
    assert not is_public_address(f"::{address}")
    assert not is_public_address(f"2001:0:808:808::{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}")


@given(st.ip_addresses())
def test_a_mapped_address_is_as_public_as_the_address_in_it(address: Any) -> None:
    public = is_public_address(str(address))
    if address.version == 4:
        assert is_public_address(f"::ffff:{address}") == public
        assert is_private_host(f"http://{int(address)}/") == (not public)
    host = f"[{address}]" if address.version == 6 else str(address)
    assert is_private_host(f"https://{host}/") == (not public)


async def test_all_addresses_of_a_name_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"public.test": ["8.8.8.8"], "rebound.test": ["8.8.8.8", "10.0.0.1"], "six.test": ["fe80::1%eth0"]}

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host not in answers:
            raise socket.gaierror("unknown")
        return [(0, 0, 0, "", (address, port)) for address in answers[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    for host, found in answers.items():
        assert await addresses_of(f"https://{host}/a") == found
    with pytest.raises(OSError, match="unknown"):
        await addresses_of("https://nowhere.test/a")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://h.test/a.png", None),
        ("http://h.test:8080/a?b=c#d", None),
        ("https://[::1]/a", None),
        ("https://münchen.test/ä.png", None),
        ("", "https:// or http://"),
        ("h.test/a.png", "https:// or http://"),
        ("file:///etc/passwd", "https:// or http://"),
        ("ftp://h.test/a", "https:// or http://"),
        ("data:image/png;base64,AAAA", "https:// or http://"),
        ("javascript:alert(1)", "https:// or http://"),
        ("https://", "host"),
        ("https:///a", "host"),
        ("https:h.test/a", "host"),
        ("https://h.test:x/", "must be a URL"),
        ("https://h.test:99999/", "must be a URL"),
        ("https://[::1/", "must be a URL"),
        (" https://h.test/", "spaces"),
        ("https://h.test/a b", "spaces"),
        ("https://h.test/\r\nHost: evil", "spaces"),
        ("https://h.test/\x00", "control"),
        ("https://h.test/\ud800", "control"),
        ("https://h.test/\u2003", "spaces"),
        ("https://user@h.test/", "user name or password"),
        ("https://:pw@h.test/", "user name or password"),
    ],
    ids=ascii,
)
def test_the_problem_with_a_url_is_reported(url: str, problem: str | None) -> None:
    found = url_problem(url)
    assert found is None if problem is None else problem in (found or "")


@given(st.text())
def test_any_text_is_checked_without_an_exception(text: str) -> None:
    for url in (text, f"https://{text}", f"https://h.test/{text}"):
        if url_problem(url) is None:
            without_signature(url)
            is_private_host(url)
            origin(url)
        without_secrets(url)


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("https://h.test/a", "https://h.test/a"),
        ("https://h.test/a?X-Amz-Signature=1", "https://h.test/a"),
        ("https://h.test/a?b=1&X-Amz-Date=2&c=%20&x-amz-signature=3", "https://h.test/a?b=1&c=%20"),
        ("https://h.test/a?X%2dGoog%2DSignature=1&b", "https://h.test/a?b"),
        ("https://h.test/a?sv=1&sig=2&sp=r&comp=x", "https://h.test/a?comp=x"),
        ("https://h.test/a?sp=r&se=1", "https://h.test/a?sp=r&se=1"),
        ("https://h.test/a?b=X-Amz-Date#X-Amz-Signature=1", "https://h.test/a?b=X-Amz-Date#X-Amz-Signature=1"),
        ("https://h.test/a?b=2&b=1&b=", "https://h.test/a?b=2&b=1&b="),
    ],
)
def test_only_known_signature_parameters_are_removed_from_the_identity(url: str, content: str) -> None:
    assert without_signature(url) == content
    assert without_signature(content) == content


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.test/a@2x.png", "https://h.test/a@2x.png"),
        ("https://h.test/a?b#c", "https://h.test/a?..."),
        ("https://h.test/a#c", "https://h.test/a#..."),
        ("https://u:p@h.test/a", "https://...@h.test/a"),
        ("https://u:p/w@h.test/a", "https://...@h.test/a"),
        ("u:p@h.test/a", "...@h.test/a"),
        ("cat.png", "cat.png"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@given(st.text("ab:/@?#[]% '\"\n", max_size=12), st.text("ab:/@?#[]% '\"\n", max_size=12))
def test_no_spelling_of_a_password_or_query_is_shown(before: str, after: str) -> None:
    assert "SECRET" not in without_secrets(f"https://u:{before}SECRET@h.test/{after}")
    assert "SECRET" not in without_secrets(f"https://h.test/{before}?{after}SECRET")
