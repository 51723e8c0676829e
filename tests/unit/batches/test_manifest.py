"""Reading a manifest, and the report of all its problems."""

from __future__ import annotations

import contextlib
import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova import VideoRequest
from prefect_loova.batches.manifest import COLUMNS, read_manifest, report_as_csv, report_name
from prefect_loova.batches.plan import PlannedVideo
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.reports import BatchReport


def refused(content: str | bytes, name: str = "list.csv", **options: int) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        read_manifest(content.encode() if isinstance(content, str) else content, name, **options)
    assert caught.value.credits_spent == "no"
    return str(caught.value)


def test_a_csv_has_columns_named_like_the_requests_fields():
    content = (
        "prompt,duration,ratio,image_urls,take\n"
        "a kite,4,9:16,https://x.example/1.png  https://x.example/2.png,\n"
        '"a boat, with ""sails""\nat sea",,,,2\n'
    )
    assert read_manifest(content.encode(), "list.csv") == [
        VideoRequest(
            prompt="a kite",
            duration=4,
            ratio="9:16",
            image_urls=("https://x.example/1.png", "https://x.example/2.png"),
        ),
        VideoRequest(prompt='a boat, with "sails"\nat sea', take=2),
    ]


def test_json_lines_have_one_object_a_line():
    rows = [{"prompt": "a kite\nat sea", "duration": 4}, {"prompt": "a boat"}]
    content = "\n\n".join(map(json.dumps, rows)) + "\n"
    assert read_manifest(content.encode(), "s3://b/list.JSONL") == [VideoRequest(**row) for row in rows]


def test_a_byte_order_mark_is_not_part_of_the_header():
    assert read_manifest("\ufeffprompt\r\na kite\r\n".encode(), "list.csv") == [VideoRequest(prompt="a kite")]
    assert read_manifest('\ufeff{"prompt": "a kite"}'.encode(), "list.jsonl") == [VideoRequest(prompt="a kite")]


def test_blank_lines_are_skipped_and_a_prompt_may_start_with_a_reference():
    content = "prompt\n\n  \n@image1 walks\n\n"
    assert [request.prompt for request in read_manifest(content.encode(), "list.csv")] == ["@image1 walks"]


def test_every_problem_of_every_row_is_reported_with_its_line():
    told = refused("prompt,duration,ratio,model\na,99,5:4,\nb,5,16:9,\n,5,,\n")
    assert "has 3 problems in 3 rows; nothing was started" in told
    for problem in (
        "line 2: duration: 99 was given",
        "line 2: ratio: '5:4' was given",
        "line 4: prompt: is missing",
    ):
        assert problem in told


def test_the_line_of_a_row_is_the_line_where_it_starts():
    told = refused('prompt,duration\n"a\nb\nc",5\nd,99\n')
    assert "line 5: duration" in told


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("Prompt,ratio", "unknown column 'Prompt' (is it prompt?)"),
        ("prompt,aspect", "unknown column 'aspect'"),
        ("ratio", "the column prompt is missing"),
        ("prompt,prompt", "column prompt is given twice"),
        ("prompt;aspect", "unknown column 'aspect'"),
        ("prompt\taspect", "unknown column 'aspect'"),
    ],
)
def test_a_wrong_header_is_refused_and_the_columns_are_named(header, says):
    told = refused(f"{header}\na,b\n")
    assert says in told
    assert ", ".join(COLUMNS) in told


@pytest.mark.parametrize("cell", ['=HYPERLINK("http://x")', " =1+1", "#REF!", "#NAME?", "#N/A"])
def test_a_formula_is_not_a_prompt(cell):
    escaped = cell.replace('"', '""')
    assert "line 2: prompt" in (told := refused(f'prompt\n"{escaped}"\n'))
    assert "it is a formula or an error of one, not a value" in told


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("prompt\n", "list.csv", "has no rows"),
        ("", "list.csv", "the column prompt is missing"),
        ("", "list.jsonl", "has no rows"),
        ("[]\n{}\n{", "list.jsonl", "line 1: [] was given: must be an object"),
        ('{"prompt": "a", "promt": "b"}', "list.jsonl", "line 1: promt"),
        ("prompt\na,b\n", "list.csv", "line 2: 2 cells for 1 column:"),
        ("prompt,duration\na\n", "list.csv", "line 2: 1 cell for 2 columns"),
        ('{"prompt": "a", "prompt": "b"}', "list.jsonl", "the field 'prompt' is given twice"),
        ("[" * 100_000, "list.jsonl", "line 1: not a JSON object"),
        ('prompt\n"a', "list.csv", "line 2: a quote opens in this row and is never closed"),
        ("prompt\na", "list.xlsx", "must end with .csv, .jsonl, .yaml or .json"),
        (
            "prompt\na".encode("utf-16"),
            "list.csv",
            "is not UTF-8 at byte 0, in line 1; it looks like UTF-16: save it as UTF-8",
        ),
        (
            b"prompt\n\xe4",
            "list.csv",
            "at byte 7, in line 2; it looks like Windows-1252 or another old encoding: save it as",
        ),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused(content, name, says):
    assert says in refused(content, name)


def test_more_rows_than_allowed_are_refused():
    assert "has over 10,000 rows (max_rows)" in refused("prompt\n" + "a\n" * 100_000)
    assert "has over 2 rows" in refused("prompt\na\nb\nc\n", max_rows=2)


def test_an_error_lists_the_first_fifty_problems():
    told = refused("prompt,duration\n" + "a,99\n" * 1000)
    assert "has 1,000 problems in 1,000 rows" in told
    assert told.count("line ") == 50
    assert "... and 950 more" in told


@given(st.text(max_size=200), st.sampled_from(["list.csv", "list.jsonl"]))
def test_every_text_is_read_or_refused_with_a_report(text, name):
    with contextlib.suppress(InvalidRequestError):
        read_manifest(f"prompt\n{text}".encode("utf-8", "surrogatepass"), name)


ALLOWED = st.characters(exclude_categories=["Cc"], include_characters="\t\n\r")


@given(st.lists(st.text(ALLOWED, min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_a_prompt_in_a_csv_is_not_changed(prompts):
    prompts = [p for p in prompts if not p.strip().startswith("=") and not p.strip().startswith("#")] or ["a"]
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([["prompt"], *([prompt] for prompt in prompts)])
    try:
        requests = read_manifest(file.getvalue().encode(), "list.csv")
    except (InvalidRequestError, UnicodeEncodeError):
        assert any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt)
    else:
        assert [request.prompt for request in requests] == prompts


def test_no_cell_of_a_report_is_a_formula():
    order = PlannedVideo(VideoRequest(prompt="-2+3+cmd|' /C calc'!A0"), (1, 4))
    report = BatchReport(videos=(order.outcome_of("failed", "=1+1, says Loova"),))
    header, row = csv.reader(io.StringIO(report_as_csv(report).decode()))
    cells = dict(zip(header, row, strict=True))
    assert (cells["reason"], cells["rows"]) == ("'=1+1, says Loova", "1 4")
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


def test_the_report_is_written_beside_the_manifest():
    assert report_name("s3://b/a.b/prompts.jsonl") == "s3://b/a.b/prompts.report.csv"


KITE = [VideoRequest(prompt="a kite, red", duration=5), VideoRequest(prompt="a boat")]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('prompt,duration\n"a kite, red",5\na boat,\n', "list.csv"),
        ("prompt;duration\na kite, red;5\na boat;\n", "list.csv"),
        ("prompt\tduration\na kite, red\t5\na boat\t\n", "list.csv"),
        ("prompt\tduration\na kite, red\t5\na boat\t\n", "list.tsv"),
        ("duration|prompt\n5|a kite, red\n|a boat\n", "list.csv"),
        ("sep=;\r\nprompt;duration\r\na kite, red;5\r\na boat;\r\n", "list.csv"),
        ('"sep=;"\nprompt;duration\na kite, red;5\na boat;\n', "list.csv"),
        ("SEP=\t\nprompt\tduration\na kite, red\t5\na boat\t\n", "list.csv"),
        ("\ufeffsep=;\nprompt;duration\na kite, red;5\na boat;\n", "list.csv"),
        ("\ufeffprompt;duration\r\na kite, red;5,0\r\na boat;\r\n", "list.csv"),
        ('prompt,duration,,\n"a kite, red",5.0,,\na boat,,,\n,,,\n', "list.csv"),
        ('prompt,duration\n"a kite, red",5.0,,\na boat,,\n', "list.csv"),
        ('prompt,,duration\n"a kite, red",,5\na boat,,\n', "list.csv"),
        ('{"prompt": "a kite, red", "duration": 5.0, "ratio": null, "take": null}\n{"prompt": "a boat"}', "list.jsonl"),
        ('{"prompt": "a kite, red", "duration": 5, "image_urls": null}\n{"prompt": "a boat"}', "list.ndjson"),
    ],
)
def test_lists_of_spreadsheets_are_read(content, name):
    assert read_manifest(content.encode(), name) == KITE


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prompt,\na,b\n", "line 2: 'b' was given in a column without a name"),
        ("prompt,duration\na,5,6\n", "line 2: 3 cells for 2 columns"),
        ("prompt;duration\na;5;6\n", "line 2: 3 cells for 2 columns"),
        ("sep=;\nprompt;duration\na;99\n", "line 3: duration: 99"),
        ("sep=;\nprompt;aspect\na;b\n", "line 1 + 1"),
        ("prompt,duration\na,5.5\n", "line 2: duration: '5.5' was given"),
        (
            'prompt,image_urls\na,"""my cat.png"\n',
            "line 2: image_urls: '\"my cat.png' was given: a quote is not closed",
        ),
        ('{"prompt": null}', "line 1: prompt: is missing"),
        ('{"prompt": "a", "promt": null}', "line 1: promt"),
    ],
)
def test_the_actual_problem_of_a_list_is_reported(content, says):
    told = refused(content, "list.jsonl" if content.startswith("{") else "list.csv")
    assert says.replace("1 + 1", "2") in told


def test_a_cell_holds_several_media_with_spaces_in_their_names():
    content = 'prompt,image_urls\na,"""pics/my cat.png"", dog.png"\n'
    assert read_manifest(content.encode(), "list.csv")[0].image_urls == ("pics/my cat.png", "dog.png")
