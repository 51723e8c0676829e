"""VideoRequest: its rules, its identity, its price, and what it does not show; and the other values."""

from __future__ import annotations

import json
import unicodedata
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.models.results import VideoTask

# Others share this machine: slow is not wrong.

IMAGE, AUDIO, VIDEO = "https://cdn.test/{}.png", "https://cdn.test/{}.mp3", "https://cdn.test/{}.mp4"
MEDIA = ("image_urls", "audio_urls", "video_urls")


def urls(pattern: str, count: int) -> list[str]:
    return [pattern.format(number) for number in range(count)]


def violations(**fields: Any) -> dict[str, str]:
    """What is wrong with a request, by field, as a user is told."""
    with pytest.raises(ValidationError) as caught:
        VideoRequest.model_validate(fields)
    lines = str(InvalidRequestError.from_validation(caught.value)).splitlines()
    return dict(line.split(": ", 1) for line in lines)


# Rules.


def test_a_prompt_is_all_that_a_request_needs_and_the_rest_has_the_documented_defaults() -> None:
    assert VideoRequest(prompt="a city").body() == {
        "prompt": "a city",
        "model": "seedance_2_0",
        "function_mode": "omni_reference",
        "ratio": "16:9",
        "duration": 5,
        "image_urls": [],
        "audio_urls": [],
        "video_urls": [],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "seedance_2_0_fast"},
        *({"ratio": ratio} for ratio in ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")),
        {"duration": 4},
        {"duration": 15},
        {"duration": 7.0},
        {"image_urls": urls(IMAGE, 9)},
        {"video_urls": urls(VIDEO, 3)},
        {"audio_urls": urls(AUDIO, 3), "image_urls": urls(IMAGE, 1)},
        {"audio_urls": urls(AUDIO, 1), "video_urls": urls(VIDEO, 1)},
        {"function_mode": "first_last_frames", "image_urls": urls(IMAGE, 1)},
        {"function_mode": "first_last_frames", "image_urls": urls(IMAGE, 2)},
        {"image_urls": ["http://cdn.test/a.png"]},
        {"image_urls": ["HTTPS://CDN.test:8443/a%20b.png?x=1&y#z"]},
        {"image_urls": ["https://[2606:4700::1]/a.png"]},
        {"take": 3},
        {"prompt": "@image1 läuft, 猫 🐈"},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_everything_that_the_reference_allows_is_accepted(fields: dict[str, Any]) -> None:
    VideoRequest.model_validate({"prompt": "a cat"} | fields)


@pytest.mark.parametrize(
    ("fields", "field", "value", "rule"),
    [
        ({"prompt": ""}, "prompt", "''", "must not be blank"),
        ({"prompt": " \n\t\u3000"}, "prompt", "' ", "must not be blank"),
        ({"prompt": None}, "prompt", "None", "valid string"),
        ({"prompt": 5}, "prompt", "5", "valid string"),
        ({"prompt": "a\ud800b"}, "prompt", r"a\ud800b", "lone surrogates"),
        ({"prompt": "a\0b"}, "prompt", r"a\x00b", "U+0000 is at character 2"),
        ({"image_urls": ["a\x85.png"]}, "image_urls.0", r"a\x85.png", "control characters"),
        ({"image_urls": ["https://cdn.test/\x9b.png"]}, "image_urls.0", r"\x9b.png", "control characters"),
        ({"model": "seedance 3"}, "model", "'seedance 3'", "seedance_2_0, seedance_2_0_fast, or one of your own"),
        ({"model": None}, "model", "None", "valid string"),
        ({"model": "own", "ratio": "wide"}, "ratio", "'wide'", "width:height"),
        ({"model": "own", "duration": 0}, "duration", "0", "greater than or equal to 1"),
        ({"model": "own", "duration": 3601}, "duration", "3601", "less than or equal to 3600"),
        ({"function_mode": "magic"}, "function_mode", "'magic'", "'first_last_frames'"),
        ({"ratio": "2:1"}, "ratio", "'2:1'", "'21:9'"),
        ({"duration": 3}, "duration", "3", "greater than or equal to 4"),
        ({"duration": 16}, "duration", "16", "less than or equal to 15"),
        ({"duration": 5.5}, "duration", "5.5", "integer"),
        ({"duration": "5"}, "duration", "'5'", "integer"),
        ({"duration": True}, "duration", "True", "integer"),
        ({"duration": None}, "duration", "None", "integer"),
        ({"duration": float("nan")}, "duration", "nan", "integer"),
        ({"duration": float("inf")}, "duration", "inf", "integer"),
        ({"image_urls": urls(IMAGE, 10)}, "image_urls", "10 images", "at most 9"),
        ({"video_urls": urls(VIDEO, 4)}, "video_urls", "4 videos", "at most 3"),
        ({"audio_urls": urls(AUDIO, 4), "image_urls": urls(IMAGE, 1)}, "audio_urls", "4 audios", "at most 3"),
        ({"audio_urls": urls(AUDIO, 1)}, "audio_urls", "1 audio, 0 images, 0 videos", "audio alone"),
        ({"function_mode": "first_last_frames"}, "image_urls", "0 images", "1 image (the first frame) or 2"),
        (
            {"function_mode": "first_last_frames", "image_urls": urls(IMAGE, 3)},
            "image_urls",
            "3 images",
            "1 image (the first frame) or 2",
        ),
        (
            {"function_mode": "first_last_frames", "image_urls": urls(IMAGE, 1), "video_urls": urls(VIDEO, 1)},
            "video_urls",
            "1 video",
            "images only",
        ),
        (
            {"function_mode": "first_last_frames", "image_urls": urls(IMAGE, 1), "audio_urls": urls(AUDIO, 1)},
            "audio_urls",
            "1 audio",
            "images only",
        ),
        ({"image_urls": ["https://cdn.test/a cat"]}, "image_urls.0", "'https://cdn.test/a cat'", "without spaces"),
        ({"image_urls": [IMAGE.format(0), "ftp://h/a"]}, "image_urls.1", "'ftp://h/a'", "an s3:// URI, or a local"),
        ({"image_urls": ["file:///etc/passwd"]}, "image_urls.0", "'file:///etc/passwd'", "https:// or http://"),
        ({"image_urls": ["https://"]}, "image_urls.0", "'https://'", "with a host"),
        ({"image_urls": ["https://h:port/"]}, "image_urls.0", "", "must be a URL"),
        ({"image_urls": [""]}, "image_urls.0", "''", "https:// or http://"),
        ({"image_urls": [5]}, "image_urls.0", "5", "must be a string"),
        ({"image_urls": IMAGE}, "image_urls", "https://cdn.test", "must be a list of URLs, s3:// URIs or local files"),
        ({"image_urls": None}, "image_urls", "None", "must be a list of URLs, s3:// URIs or local files"),
        ({"image_urls": {"a": "b"}}, "image_urls", "{'a': 'b'}", "must be a list of URLs, s3:// URIs or local files"),
        ({"take": -1}, "take", "-1", "greater than or equal to 0"),
        ({"take": "1"}, "take", "'1'", "integer"),
        ({"functionMode": "omni_reference"}, "functionMode", "'omni_reference'", "not permitted"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_a_violation_names_the_field_the_value_and_the_rule(
    fields: dict[str, Any], field: str, value: str, rule: str
) -> None:
    found = violations(**({"prompt": "a cat"} | fields))
    assert list(found) == [field]
    assert value in found[field]
    assert rule in found[field]


def test_a_missing_prompt_is_reported_as_missing() -> None:
    assert violations() == {"prompt": "is missing"}


BAD = {
    "prompt": "  ",
    "model": "seedance_2_0_fast",
    "ratio": "r",
    "duration": 99,
    "image_urls": ["no://where", *urls(IMAGE, 10)],
    "audio_urls": urls(AUDIO, 4),
    "video_urls": urls(VIDEO, 4),
    "take": -1,
    "colour": "red",
}
ALL_BAD = {
    "prompt",
    "ratio",
    "duration",
    "image_urls",
    "image_urls.0",
    "audio_urls",
    "video_urls",
    "take",
    "colour",
}


def test_all_violations_of_one_request_are_reported_together() -> None:
    assert set(violations(**BAD)) == ALL_BAD
    with pytest.raises(ValidationError) as caught:
        VideoRequest.model_validate(BAD)
    for field in ALL_BAD:
        assert f"\n{field}\n" in str(caught.value)
    assert "99" in str(caught.value)
    assert "less than or equal to 15" in str(caught.value)


def test_the_rules_of_first_last_frames_are_reported_together_with_the_others() -> None:
    found = violations(
        function_mode="first_last_frames", audio_urls=urls(AUDIO, 4), video_urls=urls(VIDEO, 1), duration=1
    )
    assert set(found) == {"prompt", "duration", "image_urls", "audio_urls", "video_urls"}


@pytest.mark.parametrize("read", [lambda data: VideoRequest(**data), VideoRequest.model_validate, MappingProxyType])
def test_the_rules_across_fields_apply_to_every_form_of_input(read: Any) -> None:
    data = {"prompt": " ", "audio_urls": urls(AUDIO, 1)}
    with pytest.raises(ValidationError) as caught:
        made = read(data)
        VideoRequest.model_validate(made)
    assert {problem["loc"][0] for problem in caught.value.errors()} == {"prompt", "audio_urls"}


def test_the_rules_across_fields_apply_to_json_and_in_another_model() -> None:
    class Flow(BaseModel):
        request: VideoRequest

    with pytest.raises(ValidationError, match="audio alone"):
        VideoRequest.model_validate_json(json.dumps({"prompt": "x", "audio_urls": urls(AUDIO, 1)}))
    with pytest.raises(ValidationError, match="audio alone") as caught:
        Flow.model_validate({"request": {"prompt": " ", "audio_urls": urls(AUDIO, 1)}})
    assert {problem["loc"] for problem in caught.value.errors()} == {("request", "prompt"), ("request", "audio_urls")}


@pytest.mark.parametrize(
    "url",
    [
        "https://user:SECRET@cdn.test/a.png",
        "https://SECRET@cdn.test/a.png",
        "https://user:p@SECRET@cdn.test/a.png",
        "https://user:p/SECRET@cdn.test/a.png",
        "https://user:p'SECRET@cdn.test/a.png",
        "https://user:p?SECRET@cdn.test/a.png",
        "ftp://user:SECRET@cdn.test/a.png",
        "s3://b/a.png?X-Amz-Signature=SECRET",
        "cdn.test/a.png?X-Amz-Signature=SECRET",
        "//user:SECRET@cdn.test/a.png",
        "user:SECRET@cdn.test/a.png",
        "https://cdn.test/a b.png?X-Amz-Signature=SECRET",
        "https://cdn.test/a.png?X-Amz-Date=1 &X-Amz-Signature=SECRET",
        "https://cdn.test/a b.png?a='&sig=SECRET",
        "https://cdn.test:port/a.png?X-Amz-Signature=SECRET",
        "https://cdn.test/a b.png#access_token=SECRET",
    ],
)
def test_no_error_shows_the_query_or_the_password_of_a_url(url: str) -> None:
    for fields in ({"image_urls": [url]}, {"image_urls": url}, {"video_urls": [IMAGE, url], "duration": 1}):
        with pytest.raises(ValidationError) as caught:
            VideoRequest.model_validate({"prompt": "x"} | fields)
        told = InvalidRequestError.from_validation(caught.value)
        assert "image_urls" in str(told) or "video_urls" in str(told)
        for text in (str(told), str(caught.value), caught.value.json(), repr(caught.value.errors())):
            assert "SECRET" not in text


def test_a_signed_url_in_an_unknown_field_is_not_shown() -> None:
    for url in ("https://cdn.test/a.png?X-Amz-Signature=SECRET", "cdn.test/a.png?X-Amz-Signature=SECRET"):
        assert "SECRET" not in violations(prompt="x", image_url=url)["image_url"]


@pytest.mark.parametrize("query", ["X-Amz-Signature=SECRET", "Signature=SECRET&Key-Pair-Id=K", "token=SECRET"])
def test_the_repr_of_a_request_has_no_queries_of_its_media(query: str) -> None:
    request = VideoRequest(prompt="x", video_urls=[f"https://cdn.test/a.mp4?{query}"])
    for text in (repr(request), str(request), f"{request}", repr([request])):
        assert "SECRET" not in text
        assert "https://cdn.test/a.mp4" in text


def test_a_foreign_text_in_a_violation_stays_on_one_line_and_is_bounded() -> None:
    found = violations(**{"prompt": "x", "ratio": "a\nmodel: fine\x1b[31m\u202e" + "y" * 9999, "a\nb": 1})
    assert set(found) == {"ratio", "a b"}
    assert "\x1b" not in found["ratio"]
    assert len(found["ratio"]) < 500


# Identity.

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\t\n\r"), min_size=1, max_size=20
).filter(str.strip)
PATHS = st.from_regex(r"https://[a-z]{1,8}\.test/[a-z0-9]{1,8}\.(png|mp4)(\?[a-z]{1,3}=[a-z0-9]{0,4})?", fullmatch=True)
REQUESTS = st.fixed_dictionaries(
    {"prompt": NAMES},
    optional={
        "model": st.sampled_from(["seedance_2_0", "seedance_2_0_fast"]),
        "ratio": st.sampled_from(["21:9", "16:9", "4:3", "1:1", "3:4", "9:16"]),
        "duration": st.integers(4, 15),
        "image_urls": st.lists(PATHS, max_size=9),
        "video_urls": st.lists(PATHS, max_size=3),
        "take": st.integers(0, 99),
    },
)


@given(REQUESTS, st.randoms())
def test_the_way_a_request_is_written_does_not_change_its_key(fields: dict[str, Any], random: Any) -> None:
    names = list(fields)
    random.shuffle(names)
    otherwise: dict[str, Any] = {}
    for name in names:
        value = fields[name]
        otherwise[name] = tuple(value) if name in MEDIA else float(value) if name in ("duration", "take") else value
    request = VideoRequest(**fields)
    defaults = VideoRequest(prompt="x").model_dump(exclude={"prompt"})
    assert VideoRequest(**otherwise).key == request.key
    assert VideoRequest(**(defaults | fields)).key == request.key
    assert VideoRequest.model_validate_json(request.model_dump_json()).key == request.key
    assert len(request.key) == 64


CHANGES: list[dict[str, Any]] = [
    {"prompt": "another"},
    {"prompt": "a cat "},
    {"model": "seedance_2_0_fast"},
    {"function_mode": "first_last_frames"},
    {"ratio": "9:16"},
    {"duration": 6},
    {"take": 1},
    {"image_urls": []},
    {"image_urls": ["https://cdn.test/2.png", "https://cdn.test/1.png"]},
    {"image_urls": ["https://cdn.test/1.png"]},
    {"image_urls": ["https://cdn.test/1.png", "http://cdn.test/2.png"]},
    {"image_urls": ["https://cdn.test/1.png", "https://cdn.test/2.png?v=2"]},
    {"image_urls": ["https://cdn.test/1.png", "https://cdn.test/2.png#v"]},
    {"image_urls": ["https://cdn.test/1.png"], "video_urls": ["https://cdn.test/2.png"]},
    {"audio_urls": ["https://cdn.test/1.mp3"]},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_field_that_changes_the_video_changes_the_key(change: dict[str, Any]) -> None:
    fields = {"prompt": "a cat", "image_urls": ["https://cdn.test/1.png", "https://cdn.test/2.png"]}
    keys = {VideoRequest(**(fields | other)).key for other in [{}, *CHANGES]}
    assert VideoRequest(**(fields | change)).key != VideoRequest(**fields).key
    assert len(keys) == len(CHANGES) + 1


@given(REQUESTS, REQUESTS)
def test_two_requests_have_one_key_only_if_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = VideoRequest(**one), VideoRequest(**other)
    assert (first.key == second.key) == (first == second)


SIGNATURES = [
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101&X-Amz-Date=20260101T000000Z&X-Amz-Expires=60"
    "&X-Amz-Security-Token=t%2Bt&X-Amz-SignedHeaders=host&X-Amz-Signature={}",
    "x-amz-date=1&x-amz-signature={}",
    "X%2DAmz%2DSignature={}",
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b&X-Goog-Expires=9&X-Goog-Signature={}",
    "sv=2024-11-04&st=2026-01-01T00%3A00%3A00Z&se=2026-01-02&sr=b&sp=r&spr=https&sig={}",
    "sv=2024-11-04&ss=b&srt=o&se=2026-01-02&sp=rl&skoid=a&sktid=b&skt=c&ske=d&sks=b&skv=e&sig={}",
]


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("rest", ["", "versionId=7", "a=1&b=2"])
@pytest.mark.parametrize("field", ["image_urls", "video_urls"])
def test_adding_removing_or_renewing_a_signature_does_not_change_the_key(signature: str, rest: str, field: str) -> None:
    def key(query: str) -> str:
        return VideoRequest(prompt="x", **{field: ["https://h.test/a" + ("?" + query if query else "")]}).key

    bare = key(rest)
    for renewed in (signature.format("1%3D"), signature.format("2")):
        assert key("&".join(filter(None, [rest, renewed]))) == bare
        assert key("&".join(filter(None, [renewed, rest]))) == bare


@given(st.from_regex(r"[a-zA-Z][a-zA-Z0-9-]{0,10}=[a-z0-9]{0,5}", fullmatch=True))
def test_any_other_parameter_of_a_media_url_changes_the_key(pair: str) -> None:
    if pair.lower().startswith(("x-amz-", "x-goog-")):
        return
    bare = VideoRequest(prompt="x", image_urls=["https://h.test/a?X-Amz-Signature=1"])
    assert VideoRequest(prompt="x", image_urls=[f"https://h.test/a?{pair}"]).key != bare.key


@pytest.mark.parametrize(
    "query", ["sig=1", "sv=1", "se=1&sp=2", "Signature=a", "Expires=1", "AWSAccessKeyId=a", "X-Amzn=1", "Y-Amz-Date=1"]
)
def test_a_parameter_that_resembles_a_signature_changes_the_key(query: str) -> None:
    with_query = VideoRequest(prompt="x", image_urls=[f"https://h.test/a?{query}"])
    assert with_query.key != VideoRequest(prompt="x", image_urls=["https://h.test/a"]).key


@pytest.mark.parametrize("code", [*range(32), *range(0x7F, 0xA0)], ids=hex)
def test_control_characters_except_tabs_and_new_lines_are_refused_in_every_text(code: int) -> None:
    assert unicodedata.category(chr(code)) == "Cc"
    if chr(code) in "\t\n\r":
        assert VideoRequest(prompt=f"a{chr(code)}b").prompt == f"a{chr(code)}b"
        return
    for fields in ({"prompt": f"a{chr(code)}b"}, {"prompt": "x", "image_urls": [f"a{chr(code)}b.png"]}):
        with pytest.raises(ValidationError, match="control characters"):
            VideoRequest.model_validate(fields)


@pytest.mark.parametrize(
    "prompt",
    [
        "a family 👩‍👩‍👧‍👦 and a flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "قطة\u200f تمشي \u202bعربي\u202c",
        "חתול \u2067רץ\u2069",
        "می‌خواهم",
        "แมว กำลัง วิ่ง",
        "猫が走る\u3000ゆっくり",
        "soft\u00adhyphen, narrow\u202fspace, line\u2028and paragraph\u2029separators, \ufeffmark",
        "e\u0301 and é",
        "two\r\nlines\tand a tab",
    ],
)
def test_text_of_every_language_is_accepted_unchanged(prompt: str) -> None:
    assert VideoRequest(prompt=prompt).prompt == prompt


def test_a_request_that_was_stored_before_the_rule_can_still_be_read() -> None:
    fields = {"prompt": "a\0b", "image_urls": ["a\x85.png"]}
    request = VideoRequest.model_validate(fields, context=STORED)
    assert (request.prompt, request.image_urls) == ("a\0b", ("a\x85.png",))
    with pytest.raises(ValidationError, match="must not be blank"):
        VideoRequest.model_validate(fields | {"prompt": " "}, context=STORED)
    with pytest.raises(ValidationError, match="control characters"):
        VideoRequest.model_validate(fields, context={"was_stored": True})


GOLDEN = [
    (
        VideoRequest(prompt="A futuristic city at sunset"),
        "3429fb0f8927db3a86c0ef9d98a907020348d24b8ecaf968d35ee75a2f6dad60",
    ),
    (
        VideoRequest(
            prompt='Eine Katze 🐈 "läuft"\n',
            model="seedance_2_0_fast",
            ratio="9:16",
            duration=15,
            image_urls=["https://b.s3.amazonaws.com/Katze%201.png?versionId=7&X-Amz-Signature=abc"],
            audio_urls=["https://cdn.test/a.mp3?se=1"],
            video_urls=["https://a.blob.core.windows.net/c/v.mp4?sv=2024-11-04&sp=r&sig=abc"],
            take=2,
        ),
        "ceb3e5b92e37f24f491b8f37d4a95a5220c551c5252aebd5be8233f495f34f10",
    ),
    (
        VideoRequest(
            prompt="x", function_mode="first_last_frames", image_urls=["HTTP://CDN.test/1.png", "https://cdn.test/2"]
        ),
        "dbf5668dd5710e8d5d8182fd24f425eb8f809e8c644071024c1047ee55e3263a",
    ),
]


@pytest.mark.parametrize(("request_", "key"), GOLDEN)
def test_the_keys_of_version_1_never_change(request_: VideoRequest, key: str) -> None:
    # A key that changes makes every video be paid for again. Never update these; add a version.
    assert request_.key == key


# Price, form, secrets.


@pytest.mark.parametrize(
    ("model", "with_video", "per_second"),
    [
        ("seedance_2_0", True, 30),
        ("seedance_2_0", False, 15),
        ("seedance_2_0_fast", True, 20),
        ("seedance_2_0_fast", False, 10),
    ],
)
def test_the_estimate_is_the_price_per_second_times_the_duration(
    model: Any, with_video: bool, per_second: float
) -> None:
    media: Any = {"video_urls": urls(VIDEO, 2)} if with_video else {"image_urls": urls(IMAGE, 2)}
    for duration in (4, 5, 15):
        request = VideoRequest(prompt="x", model=model, duration=duration, **media)
        assert request.estimate_credits() == duration * per_second


def test_a_request_cannot_be_changed() -> None:
    request = VideoRequest(prompt="x", image_urls=urls(IMAGE, 1))
    with pytest.raises(ValidationError):
        request.prompt = "y"  # type: ignore[misc]
    assert isinstance(request.image_urls, tuple)
    hash(request)


def test_a_request_survives_json() -> None:
    request = VideoRequest(prompt="🐈", image_urls=[IMAGE.format(1) + "?X-Amz-Signature=a"], take=2, duration=9)
    assert VideoRequest.model_validate_json(request.model_dump_json()) == request
    assert VideoRequest(**json.loads(json.dumps(request.model_dump(mode="json")))) == request


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_schema_has_the_choices_and_the_bounds_for_a_form(mode: Any) -> None:
    schema = VideoRequest.model_json_schema(mode=mode)
    fields = schema["properties"]
    known = {name: fields[name]["anyOf"][0]["enum"] for name in ("model", "ratio")}
    assert known["model"] == schema["if"]["properties"]["model"]["enum"] == ["seedance_2_0", "seedance_2_0_fast"]
    assert set(fields["function_mode"]["enum"]) == {"omni_reference", "first_last_frames"}
    rules = schema["then"]["properties"]
    assert set(known["ratio"]) == set(rules["ratio"]["enum"]) == {"21:9", "16:9", "4:3", "1:1", "3:4", "9:16"}
    assert (fields["duration"]["type"], fields["duration"]["default"]) == ("integer", 5)
    assert rules["duration"] == {"minimum": 4, "maximum": 15}
    assert (fields["take"]["type"], fields["take"]["minimum"]) == ("integer", 0)
    assert [rules[name]["maxItems"] for name in MEDIA] == [9, 3, 3]
    assert all(fields[name]["items"]["type"] == "string" for name in MEDIA)
    assert "prompt" in schema["required"]
    assert all(field["title"] and field["description"] for field in fields.values())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": "A futuristic city"}, "a-futuristic-city 16:9 5s"),
        ({"prompt": "?!"}, "video 16:9 5s"),
        ({"prompt": "x", "take": 2, "ratio": "1:1"}, "x 1:1 5s take 2"),
        ({"prompt": "{{ a }} \n <b>"}, "a-b 16:9 5s"),
    ],
)
def test_the_name_of_a_run_is_short_and_plain(fields: dict[str, Any], name: str) -> None:
    assert VideoRequest(**fields).name == name
    assert len(VideoRequest(**(fields | {"prompt": "word " * 99})).name) < 70
    assert len(VideoRequest(**(fields | {"prompt": "w" * 999})).name) < 70


def test_the_url_of_a_video_is_neither_shown_nor_serialized() -> None:
    task = VideoTask(task_id="t", state="succeeded", video_url="https://cdn.test/SECRET?X-Amz-Signature=SECRET")
    assert task.video_url is not None
    for text in (repr(task), str(task), task.model_dump_json(), repr(task.model_dump()), f"{task}"):
        assert "SECRET" not in text
        assert "video_url" not in text


def test_a_fallback_prompt_makes_another_request_and_changes_neither_key_nor_body() -> None:
    plain = VideoRequest(prompt="a brand", duration=4, take=2)
    request = VideoRequest(prompt="a brand", fallback_prompt="a label", duration=4, take=2)
    assert (request.key, request.body(), request.as_stored()) == (plain.key, plain.body(), plain.as_stored())
    assert request.fallback == VideoRequest(prompt="a label", duration=4, take=2)
    assert plain.fallback is None and request.fallback is not None and request.fallback.fallback is None


@pytest.mark.parametrize(
    ("fallback", "rule"),
    [(" ", "must not be blank"), ("a brand", "must differ from the prompt"), ("a\x00", "control characters")],
)
def test_a_fallback_prompt_has_the_rules_of_a_prompt(fallback: str, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule) as caught:
        VideoRequest(prompt="a brand", fallback_prompt=fallback)
    assert "fallback_prompt" in str(caught.value)


def test_a_label_and_the_number_of_takes_are_no_part_of_the_key_and_are_not_sent() -> None:
    plain, labelled = VideoRequest(prompt="a cat"), VideoRequest(prompt="a cat", label=" spring ", takes=3)
    assert labelled.key == plain.key == labelled.all_takes[0].key
    assert labelled.body() == plain.body() and labelled.as_stored() == plain.as_stored()
    assert labelled.label == "spring"


def test_takes_are_numbered_from_the_first_and_share_a_group() -> None:
    takes = VideoRequest(prompt="a cat", take=2, takes=3, label="spring").all_takes
    assert [(one.take, one.takes, one.label) for one in takes] == [(2, 1, "spring"), (3, 1, "spring"), (4, 1, "spring")]
    assert len({one.key for one in takes}) == 3
    assert {one.group for one in takes} == {VideoRequest(prompt="a cat").key}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"takes": 0}, "takes: 0 was given"),
        ({"takes": 101}, "takes: 101 was given"),
        ({"takes": "3"}, "takes: '3' was given"),
        ({"label": "a\nb"}, "label: 'a\\nb' was given: must be one line of printable text"),
        ({"label": "x" * 101}, "label: "),
    ],
)
def test_wrong_takes_and_labels_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        VideoRequest.model_validate({"prompt": "a cat"} | fields)
    assert says in str(InvalidRequestError.from_validation(caught.value))
