"""The credentials block: Prefect's own tests for blocks, and secrets that it never shows."""

import struct
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_loova import LoovaCredentials
from prefect_loova.client import DEFAULT_BASE_URL
from prefect_loova.errors import InvalidRequestError

LOGO = Path(__file__).parents[2] / "docs" / "logo.png"


class TestLoovaCredentialsAsABlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self):
        return LoovaCredentials

    def test_prefect_finds_the_type_by_the_key_that_it_would_derive_itself(self, block):
        key = Block.__dispatch_key__.__func__(block)
        assert block.__dispatch_key__() == key and Block.get_block_class_from_key(key) is block

    def test_has_a_valid_image(self, block):
        """The suite would fetch the logo from where it is published; this is the file that is published there."""
        assert str(block._logo_url).endswith("/docs/logo.png")
        header = LOGO.read_bytes()[:24]
        width, height = struct.unpack(">II", header[16:24])
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert width == height
        assert 45 < width < 1000


def test_from_env_reads_the_key_and_the_base_url(monkeypatch):
    monkeypatch.setenv("LOOVA_API_KEY", " key-1 ")
    monkeypatch.delenv("LOOVA_BASE_URL", raising=False)
    assert LoovaCredentials.from_env().api_key.get_secret_value() == "key-1"
    assert LoovaCredentials.from_env().base_url == DEFAULT_BASE_URL
    monkeypatch.setenv("LOOVA_BASE_URL", "http://127.0.0.1:8765/api/")
    assert LoovaCredentials.from_env().base_url == "http://127.0.0.1:8765/api"


@pytest.mark.parametrize(("value", "says"), [(None, "is not set"), ("", "is empty"), ("  ", "is empty")])
def test_from_env_without_a_key_says_what_to_do(monkeypatch, value, says):
    monkeypatch.delenv("LOOVA_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("LOOVA_API_KEY", value)
    with pytest.raises(InvalidRequestError, match=f"LOOVA_API_KEY {says}: make a key in the Loova dashboard"):
        LoovaCredentials.from_env()


@pytest.mark.parametrize("url", ["", "loova.ai", "file:///etc", "https://user:secret@loova.ai"])
def test_an_invalid_base_url_is_refused(url):
    with pytest.raises(ValidationError, match="base_url"):
        LoovaCredentials(api_key=SecretStr("key"), base_url=url)


def test_an_empty_key_is_refused():
    with pytest.raises(ValidationError, match="API key is empty"):
        LoovaCredentials(api_key=SecretStr(" "))


def test_neither_repr_nor_json_contains_the_key():
    credentials = LoovaCredentials(api_key=SecretStr("very-secret"))
    for text in (repr(credentials), str(credentials), credentials.model_dump_json(), repr(credentials.get_client())):
        assert "very-secret" not in text
