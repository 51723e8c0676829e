"""Prompt templates: rendered before the key is made, and wrong columns are refused."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_loova.batches.manifest import read_manifest
from prefect_loova.batches.templates import PromptTemplate
from prefect_loova.errors import InvalidRequestError

TEMPLATE = PromptTemplate.of("{product} at {place}, {season}", ["product", "place", "season"])


def prompts(content: str, name: str, template: PromptTemplate | None = None) -> list[str]:
    return [request.prompt for request in read_manifest(content.encode(), name, template=template)]


def refused(content: str, name: str = "list.yaml", template: PromptTemplate | None = None) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        read_manifest(content.encode(), name, template=template)
    return caught.value.message


def test_the_columns_of_a_csv_file_make_the_prompts() -> None:
    content = "product;place;season;duration\na chair;the beach;winter;4\na lamp;home;summer;5\n"
    assert prompts(content, "list.csv", TEMPLATE) == ["a chair at the beach, winter", "a lamp at home, summer"]


def test_the_fields_of_json_lines_make_the_prompts() -> None:
    content = '{"product": "a chair", "place": "home", "season": 2026, "takes": 2}'
    assert prompts(content, "list.jsonl", TEMPLATE) == ["a chair at home, 2026"]


def test_a_yaml_list_makes_all_combinations_of_its_values() -> None:
    content = """
    prompt_template: "{product} at {place}"
    columns:
      product: [a chair, a lamp]
      place: [home, sea, 7]
    takes: 2
    label: spring
    duration: 4
    """
    requests = read_manifest(content.encode(), "list.yaml")
    assert [one.prompt for one in requests] == [
        "a chair at home",
        "a chair at sea",
        "a chair at 7",
        "a lamp at home",
        "a lamp at sea",
        "a lamp at 7",
    ]
    assert {(one.takes, one.label, one.duration) for one in requests} == {(2, "spring", 4)}


def test_a_yaml_list_has_videos_that_replace_the_shared_fields() -> None:
    content = """
    prompt_template: "{product} {{at home}}"
    columns: [product]
    duration: 4
    videos:
      - product: a chair
      - {product: a lamp, duration: 5}
    """
    requests = read_manifest(content.encode(), "list.yaml")
    assert [(one.prompt, one.duration) for one in requests] == [("a chair {at home}", 4), ("a lamp {at home}", 5)]


def test_a_json_list_of_requests_needs_no_template() -> None:
    assert prompts('[{"prompt": "a cat"}, {"prompt": "a dog", "takes": 3}]', "list.json") == ["a cat", "a dog"]


def test_a_prompt_that_is_rendered_has_the_key_of_the_same_prompt_that_is_written_out() -> None:
    rendered = read_manifest(b"product,place,season\na chair,home,winter\n", "list.csv", template=TEMPLATE)
    written = read_manifest(b'prompt\n"a chair at home, winter"\n', "list.csv")
    assert rendered[0].key == written[0].key


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("{product} at {place}", ["product"], "prompt_template: {place} is not in columns (product)"),
        ("{product}", ["product", "place"], "columns: place is not used in prompt_template"),
        ("", ["product"], "prompt_template: '' was given: must be a prompt with {columns}"),
        ("a chair", [], "columns: [] was given: must name the columns"),
        ("a chair", None, "columns: [] was given: must name the columns"),
        ("{product} {}", None, "braces must hold the name of a column"),
        ("{product.name}", ["product"], "braces must hold the name of a column and nothing else"),
        ("{product!r}", ["product"], "braces must hold the name of a column and nothing else"),
        ("{product:>9}", ["product"], "braces must hold the name of a column and nothing else"),
        ("{}", ["product"], "braces must hold the name of a column and nothing else"),
        ("{product", ["product"], "write {{ for a brace of the prompt"),
        ("{duration}", ["duration"], "columns: 'duration' was given: is a field of a request"),
        ("{a}", ["a", "a"], "columns: 'a' was given twice"),
        ("{a}", ["a b", "a"], "columns: 'a b' was given: must have letters, digits and underscores only"),
    ],
)
def test_a_template_that_does_not_fit_its_columns_is_refused(text: str, columns: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        PromptTemplate.of(text, columns)
    assert says in caught.value.message


def test_all_problems_of_the_rows_are_reported_with_their_lines() -> None:
    said = refused("product,place,season,prompt\na,b,c,d\na,,c,\n", "list.csv", TEMPLATE)
    assert "line 2: prompt: prompt_template makes the prompt, so a row must not have one" in said
    assert "line 3: place: is missing: must be text or a number" in said
    assert "the column season is missing" in refused("product,place\na,b\n", "list.csv", TEMPLATE)
    assert "unknown column 'plaec' (is it place?)" in refused("product,plaec,season\na,b,c\n", "list.csv", TEMPLATE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prompt_template: '{a}'\ncolumns: {a: []}", "columns: a must have a list of values"),
        ("prompt_template: '{a}'\ncolumns: {a: [1]}\nvideos: [{a: 2}]", "videos: columns have all values already"),
        ("prompt_template: '{a}'\ncolumns: [a]", "videos: must be a list of videos"),
        ("duratoin: 4\nvideos: [{prompt: a}]", "unknown field 'duratoin' (is it duration?)"),
        ("videos: [a cat]", "video 1: 'a cat' was given: must be the fields of a video"),
        ("videos: [{prompt: a, lable: b}]", "video 1: lable"),
        ("just text", "must have a list of videos, or prompt_template with columns"),
    ],
)
def test_a_yaml_list_with_problems_is_refused(content: str, says: str) -> None:
    assert says in refused(content)


def test_a_template_is_given_once() -> None:
    content = "prompt_template: '{product}'\ncolumns: [product]\nvideos: [{product: a}]"
    assert "has one too" in refused(content, template=TEMPLATE)
