"""What is secret in foreign text is not shown, however it is encoded; and ordinary text is shown as it is."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_loova._redaction import hide_secrets
from prefect_loova._url_signatures import SIGNATURES
from prefect_loova.errors import LoovaError, redact
from prefect_loova.models.request import VideoRequest

Encoder = Callable[[str], str]
ENCODERS: dict[str, Encoder] = {
    "percent": lambda text: quote(text, safe=""),
    "percent, lower case": lambda text: "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in text),
    "percent, every character": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "html": html.escape,
    "html, decimal": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "html, decimal with zeros": lambda text: "".join(c if c.isalnum() else f"&#{ord(c):05};" for c in text),
    "html, hex": lambda text: "".join(c if c.isalnum() else f"&#x{ord(c):X};" for c in text),
    "html, hex with zeros": lambda text: "".join(f"&#x{ord(c):010x};" for c in text),
    "html, names": lambda text: (
        text.replace("&", "&amp;").replace("/", "&sol;").replace("?", "&quest;").replace("=", "&equals;")
    ),
    "html, names of line ends": lambda text: (
        text.replace("&", "&AMP;").replace("\n", "&NewLine;").replace("+", "&plus;")
    ),
    "json": json.dumps,
    "json, slashes": lambda text: json.dumps(text).replace("/", r"\/"),
    "json, as Go writes it": lambda text: json.dumps(text).replace("&", r"\u0026").replace("=", r"\u003D"),
    "json, every character": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "python": lambda text: "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in text),
    "python, every character": lambda text: "".join(
        f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text
    ),
    "javascript, braces": lambda text: "".join(c if c.isalnum() else f"\\u{{{ord(c):x}}}" for c in text),
    "repr": repr,
}


def in_lines(text: str, size: int, end: str) -> str:
    return end.join(text[start : start + size] for start in range(0, len(text), size))


PACKERS: dict[str, Encoder] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, later": lambda text: base64.b64encode(b"a:" + text.encode()).decode(),
    "base64, url": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64, lines": lambda text: base64.encodebytes(text.encode()).decode().strip(),
    "base64, lines of mail": lambda text: in_lines(base64.b64encode(text.encode()).decode(), 64, "\r\n"),
    "hex": lambda text: text.encode().hex(),
    "hex, upper case": lambda text: text.encode().hex().upper(),
    "hex, lines": lambda text: in_lines(text.encode().hex(), 32, "\n"),
}
PARAMETERS = sorted(
    {name for one in SIGNATURES for name in one.needs if "signature" in name} - {"x-oss-signature-version"}
)
SECRETS = st.text("ABCabcxyz0123456789+/=~_-.", min_size=12, max_size=80).filter(lambda text: text.strip(".=-_~"))
KEYS = st.text("ABCabcxyz0123456789+/=~_-.", min_size=8, max_size=80).filter(lambda text: text.strip(".=-_~"))


def encoded(text: str, names: Sequence[str]) -> str:
    for name in names:
        text = (ENCODERS | PACKERS)[name](text)
    return text


CHAINS = st.tuples(
    st.lists(st.sampled_from(list(ENCODERS)), max_size=2),
    st.lists(st.sampled_from(list(PACKERS)), max_size=1),
    st.lists(st.sampled_from(list(ENCODERS)), max_size=2),
).map(lambda parts: [name for part in parts for name in part])


@given(SECRETS, st.sampled_from(PARAMETERS), st.sampled_from(["/cat.png", "/a b/猫.png", ""]), CHAINS)
def test_no_signature_is_shown_however_the_url_is_encoded(secret: str, name: str, path: str, chain: list[str]) -> None:
    url = f"https://bucket.example{quote(path)}?versionId=7&{name}={quote(secret)}&Expires=1800000000"
    for text in (encoded(url, chain), f"the image ({encoded(url, chain)}) cannot be loaded"):
        line = redact(text, 5000)
        for value in (
            secret,
            quote(secret),
            *(encoded(secret, [one]) for one in {*ENCODERS, *PACKERS} - {"base64, later"}),
        ):
            assert value not in line


@given(KEYS, CHAINS)
@example("000000000000", ["json, every character", "base64, lines", "percent"])
@example("00000000=_________", ["percent, lower case", "percent", "base64, lines", "percent"])
@example("00000000==/", ["percent", "percent, every character", "base64, lines", "percent"])
@example("000000000000", ["html, decimal", "base64, lines", "html, decimal with zeros"])
@example("0000000A", ["base64, url"])
def test_no_api_key_is_left_however_it_is_encoded(key: str, chain: list[str]) -> None:
    for text in (encoded(f"Bearer {key}", chain), f"invalid key {encoded(key, chain)}, try another"):
        line = hide_secrets(text, key)
        assert key not in line
        assert encoded(key, chain) not in line


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n    ", "\r\n\t"])
@given(name=st.sampled_from(list(ENCODERS)), outer=st.sampled_from(list(ENCODERS)))
def test_base64_in_lines_is_one_run_however_its_line_ends_are_encoded(end: str, name: str, outer: str) -> None:
    lines = base64.b64encode(b"the key that you sent, loova-secret-key, is not valid").decode()
    text = encoded(in_lines(lines, 30, end), [name, outer])
    line = hide_secrets(f"invalid: {text}", "loova-secret-key")
    assert line.startswith("invalid: ")
    assert not any(part in line for part in (lines[24:30], lines[30:40]))


def test_base64_that_another_base64_precedes_is_read_from_its_own_start() -> None:
    lines = [base64.b64encode(text).decode() for text in (b"an image of a cat", b"loova-secret-key")]
    assert hide_secrets("\n".join(lines), "loova-secret-key") == f"{lines[0]}\n..."


def test_a_piece_of_which_a_part_is_hidden_shows_no_query() -> None:
    packed = base64.b64encode(b"loova-secret-key").decode()
    assert hide_secrets(f"at https://{packed}/a?password=SECRET, no", "loova-secret-key") == "at ... no"
    assert (
        hide_secrets("https://h.test/a?user=loova-secret-key&password=SECRET", "loova-secret-key")
        == "https://h.test/a?..."
    )


@given(SECRETS, st.sampled_from(list(ENCODERS)))
def test_no_password_is_shown_however_the_url_is_encoded(secret: str, name: str) -> None:
    assert secret not in redact(encoded(f"postgres://user:{quote(secret, safe='')}@h.example/a", [name]), 5000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https%3A%2F%2Fh.test%2Fa.png%3Fsig%3DSECRET is gone", "https://h.test/a.png?... is gone"),
        ("https%253a%252f%252fh.test%252fmy%2520cat.png%253fsig%253dSECRET", "https://h.test/my%2520cat.png?..."),
        (r'{"url":"https:\/\/h.test\/a?x=1\u0026Signature=SECRET"}', '{"url":"https://h.test/a?..."}'),
        ("&lt;https://h.test/a?x=1&amp;Signature=SECRET", "&lt;https://h.test/a?..."),
        ("https://proxy.test/https%3A%2F%2Fh.test%2Fa%3Ftoken%3DSECRET", "https://proxy.test/https://h.test/a?..."),
        ("Location: /v.mp4?token=SECRET&auth_key=SECRET", "Location: /v.mp4?token=...&auth_key=..."),
        ("q-ak=SECRET&q-signature=SECRET", "q-ak=...&q-signature=..."),
        ("x-oss-meta-any=SECRET X-Amz-Meta-Any=SECRET", "x-oss-meta-any=... X-Amz-Meta-Any=..."),
        ("cat.png?X-Tos-Signature=SECRET&x=1", "cat.png?X-Tos-Signature=...&x=1"),
    ],
)
def test_what_is_left_of_an_encoded_url_can_be_read(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert "SECRET" not in str(LoovaError("x", loova_message=text, trace_id=text))


ORDINARY = [
    "100% of the tasks, 5%25 more",
    "AT&T &amp; co &lt;b&gt; &#233; &copy;",
    r"C:\Users\u0041nna\new\x41.png",
    "prompt: 50%2B off, a/b\\/c",
    "caf%C3%A9 na%C3%AFve 猫 🐈 مرحبا",
    "s3://bucket/loova/3429fb0f8927db3a86c0ef9d98a907020348d24b8ecaf968d35ee75a2f6dad60/record.json",
    "sha256 3429fb0f8927db3a86c0ef9d98a907020348d24b8ecaf968d35ee75a2f6dad60",
    "aGVsbG8gd29ybGQsIHRoaXMgaXMgaGFybWxlc3M=",
    "see https://docs.loova.ai/pricing%20and%20limits",
    "SignatureDoesNotMatch: the signature is wrong",
    "trace 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert hide_secrets(text, "loova-secret-key") == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="?=@%&\\"), max_size=200))
def test_text_without_queries_and_escapes_is_left_alone(text: str) -> None:
    assert hide_secrets(text, "loova-secret-key") == text or "://" in text


@pytest.mark.parametrize(
    "part",
    [
        "%25",
        "%",
        "\\",
        "&amp;",
        "&#",
        "&",
        "%2525E7",
        "A" * 16 + "\n",
        "A" * 16 + "&#00010;",
        "A%5Cn",
        "\\u{0",
        "&#0",
        "aHR0",
        "https%3A%2F%2F",
        "&amp;#37;25",
        "deadbeef",
        "x-amz-",
        "http://",
    ],
)
def test_megabytes_take_linear_time(part: str) -> None:
    def took(size: int) -> float:
        began = time.process_time()
        hide_secrets((part * size)[:size], "loova-secret-key")
        return time.process_time() - began

    took(1000)
    assert took(1_000_000) < 10


def test_escapes_that_are_nested_too_deep_are_not_shown() -> None:
    text = "https://h.test/a?sig=SECRET"
    for _ in range(5):
        text = html.escape(quote(text, safe="")).replace("%", "&#37;")
    assert "SECRET" not in redact(text, 100_000)


def test_a_record_keeps_no_signature_that_is_encoded_in_the_path_of_a_url() -> None:
    url = "https://proxy.test/resize/https%3A%2F%2Fh.test%2Fa.png%3FX-Amz-Signature%3DSECRET"
    request = VideoRequest(prompt="x", image_urls=[url])
    assert "SECRET" not in json.dumps(request.as_stored())
    assert "SECRET" not in repr(request)
