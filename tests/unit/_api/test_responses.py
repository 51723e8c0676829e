"""Parsing of responses: above all, which answers to a submit are a purchase, a refusal, or in doubt."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_loova._api.responses import ApiResponse, parse_credits, parse_submit, parse_task
from prefect_loova.client import LoovaClient
from prefect_loova.errors import (
    AuthenticationError,
    InDoubtError,
    InputRefusedError,
    InsufficientCreditsError,
    InvalidRequestError,
    LoovaError,
    RejectedError,
    TaskNotFoundError,
    TooManyRunningTasksError,
    UnexpectedResponseError,
)
from tests.support.logs import logged

# Others share this machine: slow is not wrong.

QUICKSTART_SUBMIT = (
    b'{"code": 200, "trace_id": "trace_xxx", "message": "success", "data": {"task_id": "record_id",'
    b' "status": "running", "created_at": "2024-01-01T12:00:00Z", "credits_cost": 12.0}}'
)
QUICKSTART_POLL = (
    b'{"code": 200, "trace_id": "trace_xxx", "message": "success", "data": {"task_id": "record_id",'
    b' "status": "running", "model": "seedance_2_0", "created_at": "2024-01-01T12:00:00Z", "updated_at":'
    b' "2024-01-01T12:00:05Z", "credits_cost": 12.0, "result": {"status": "succeeded", "video_url": "https://...",'
    b' "error_message": null, "finished_at": "2024-01-01T12:02:00Z"}}}'
)
HTML = b"<html><body>502 Bad Gateway</body></html>"


def envelope(code: Any = 200, message: Any = "success", data: Any = None, **more: Any) -> bytes:
    return json.dumps({"code": code, "trace_id": "trace_1", "message": message, "data": data} | more).encode()


def submitted(http: int, body: bytes, **settings: Any) -> Any:
    return parse_submit(ApiResponse.parse(http, body), **settings)


# A submit: purchases.


def test_the_answer_of_the_quickstart_is_a_purchase() -> None:
    task = submitted(200, QUICKSTART_SUBMIT)
    assert (task.task_id, task.state, task.status, task.credits_cost) == ("record_id", "running", "running", 12.0)
    assert task.created_at == datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert task.trace_id == "trace_xxx"


@pytest.mark.parametrize("http", [200, 201, 202, 302, 400, 401, 402, 403, 404, 408, 409, 429, 499, 500, 502, 503, 504])
@pytest.mark.parametrize("code", [200, 0, None, 400, 401, 402, 409, 429, 500, 503, "x"])
def test_a_task_id_in_any_answer_is_a_purchase_whatever_its_codes(http: int, code: Any) -> None:
    for message in ("success", None, "Too many running tasks", "Insufficient credits", "Authentication failed"):
        body = envelope(code, message, {"task_id": "t_1"})
        for refused in (False, True):
            assert submitted(http, body, unavailable_means_refused=refused).task_id == "t_1"


@pytest.mark.parametrize(
    ("task_id", "read"), [("t", "t"), (" t ", "t"), (12345678901234567890, "12345678901234567890"), (0, "0")]
)
def test_a_task_id_is_text_or_a_whole_number(task_id: Any, read: str) -> None:
    assert submitted(200, envelope(data={"task_id": task_id})).task_id == read


@pytest.mark.parametrize("task_id", [None, "", "  ", True, 1.5, [], ["t"], {"id": "t"}])
def test_a_value_that_is_not_a_task_id_is_a_doubt(task_id: Any) -> None:
    with pytest.raises(InDoubtError):
        submitted(200, envelope(data={"task_id": task_id}))


@pytest.mark.parametrize(
    "data",
    [
        {"credits_cost": "12.5"},
        {"credits_cost": "many"},
        {"credits_cost": 10**4000},
        {"credits_cost": float("nan")},
        {"credits_cost": None, "created_at": "yesterday", "status": 5, "result": "soon", "model": []},
        {"created_at": 1704110400, "unknown": {"deep": [1]}},
    ],
    ids=lambda data: repr(data)[:40],
)
def test_other_bad_fields_do_not_change_a_purchase(data: dict[str, Any]) -> None:
    assert submitted(200, envelope(data={"task_id": "t"} | data)).task_id == "t"


def test_a_task_id_with_invalid_characters_is_a_purchase_that_can_be_stored() -> None:
    task = submitted(200, rb'{"code": 200, "trace_id": "\ud800", "data": {"task_id": "a\ud800"}}')
    assert task.task_id
    assert json.loads(task.model_dump_json())["task_id"] == task.task_id


# A submit: refusals.

SURELY_REFUSED = [code for code in range(400, 500) if code not in (408, 409, 425, 499)]


@pytest.mark.parametrize("code", SURELY_REFUSED)
def test_a_client_error_in_http_or_in_the_envelope_is_a_refusal(code: int) -> None:
    for http, body in (
        (code, b""),
        (code, HTML),
        (code, envelope()),
        (code, envelope(code, "no")),
        (200, envelope(code, None)),
        (200, envelope(str(code), None)),
        (200, envelope(float(code), "no")),
    ):
        with pytest.raises(RejectedError) as caught:
            submitted(http, body)
        assert caught.value.credits_spent == "no"


@pytest.mark.parametrize("code", [408, 409, 425, 499])
def test_four_client_errors_are_in_doubt(code: int) -> None:
    for http, body in ((code, b""), (200, envelope(code, "no")), (code, envelope(400, "no")), (400, envelope(code))):
        with pytest.raises(InDoubtError) as caught:
            submitted(http, body)
        assert caught.value.credits_spent == "maybe"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_a_refusal(status: int) -> None:
    for body in (b"", HTML, envelope()):
        with pytest.raises(RejectedError, match="base URL") as caught:
            submitted(status, body)
        assert caught.value.http_status == status


@pytest.mark.parametrize("message", ["The prompt was refused", "error", "0", "违规内容"])
@pytest.mark.parametrize("data", [None, {}, {"task_id": None}, [], {"reason": "x"}])
def test_the_success_code_with_another_message_and_no_task_id_is_a_refusal(message: str, data: Any) -> None:
    with pytest.raises(RejectedError) as caught:
        submitted(200, envelope(200, message, data))
    assert caught.value.loova_message == message
    assert (caught.value.code, caught.value.trace_id) == (200, "trace_1")


@pytest.mark.parametrize("data", ["task-1", ["task-1"], [{"task_id": "task-1"}], {"id": "1"}, {"record_id": 7}])
def test_the_success_code_with_another_message_is_in_doubt_where_a_task_may_be_named(data: Any) -> None:
    with pytest.raises(InDoubtError):
        submitted(200, envelope(200, "task created", data))
    with pytest.raises(InDoubtError):
        submitted(200, b'{"code": 200, "message": "task created", "data": null, "task_id": "task-1"}')


@pytest.mark.parametrize(
    "message",
    [
        "Too many running tasks: at most 6",
        "too many tasks",
        "TOO MANY REQUESTS",
        "Concurrency limit reached",
        "You may run at most 6 running tasks.",
        "Rate limit exceeded",
        "The limit of running tasks is reached",
    ],
)
def test_a_message_about_too_many_tasks_is_a_quota_refusal(message: str) -> None:
    for http, code in ((200, 200), (200, 400), (403, 403), (200, 1), (200, None)):
        with pytest.raises(TooManyRunningTasksError):
            submitted(http, envelope(code, message))


@pytest.mark.parametrize(("http", "body"), [(429, b""), (429, HTML), (429, envelope()), (200, envelope(429, None))])
def test_429_in_http_or_in_the_envelope_is_a_quota_refusal(http: int, body: bytes) -> None:
    with pytest.raises(TooManyRunningTasksError):
        submitted(http, body)


@pytest.mark.parametrize(
    ("http", "body", "kind"),
    [
        (401, b"", AuthenticationError),
        (200, envelope(401, "Authentication failed"), AuthenticationError),
        (200, envelope(200, "Authentication failed"), AuthenticationError),
        (403, envelope(403, "Invalid API key"), AuthenticationError),
        (402, b"", InsufficientCreditsError),
        (200, envelope(402, None), InsufficientCreditsError),
        (200, envelope(200, "Insufficient credits"), InsufficientCreditsError),
        (400, envelope(400, "You have not enough API credits"), InsufficientCreditsError),
        (400, envelope(400, "The prompt is too many words, and no"), RejectedError),
    ],
)
def test_a_refusal_is_named_by_its_cause(http: int, body: bytes, kind: type[LoovaError]) -> None:
    with pytest.raises(RejectedError) as caught:
        submitted(http, body)
    assert type(caught.value) is kind


def test_503_is_a_refusal_only_if_the_user_says_so() -> None:
    for http, body in ((503, b""), (503, HTML), (503, envelope(503, "no")), (200, envelope(503, "no"))):
        with pytest.raises(InDoubtError):
            submitted(http, body)
        with pytest.raises(RejectedError):
            submitted(http, body, unavailable_means_refused=True)


# A submit: doubts.


@pytest.mark.parametrize(
    ("http", "body"),
    [
        *((status, body) for status in (500, 501, 502, 504, 520, 524, 599) for body in (b"", HTML, envelope())),
        *((200, envelope(code, "Internal error")) for code in (500, 502, 504, 599)),
        (400, envelope(500, "no")),
        (500, envelope(400, "no")),
        (500, envelope(500, "Too many running tasks")),
        (503, envelope(500, "no")),
        (200, b""),
        (200, b"   "),
        (200, HTML),
        (200, b"\xff\xfe\x00"),
        (200, b'{"code": 200, "data": {"task_id": '),
        (200, b"[" * 100_000),
        (200, b"null"),
        (200, b"[]"),
        (200, b'[{"task_id": "t"}]'),
        (200, b'"task_id"'),
        (200, b"200"),
        (200, b"{}"),
        (204, b""),
        (200, envelope(200, "success")),
        (200, envelope(200, None)),
        (200, envelope(200, " ")),
        (200, envelope(200, "Success")),
        (200, envelope(200, "success", [])),
        (200, envelope(200, "success", {"status": "running"})),
        (200, envelope(200, {"text": "no"})),
        (200, envelope(None, "no")),
        (200, envelope("x", "no")),
        (200, envelope(True, "no")),
        (200, envelope(10**4000, "no")),
        (200, envelope(float("inf"), "no")),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_any_other_answer_is_in_doubt(http: int, body: bytes) -> None:
    for refused in (False, True):
        with pytest.raises(InDoubtError) as caught:
            submitted(http, body, unavailable_means_refused=refused)
        assert caught.value.credits_spent == "maybe"
        assert caught.value.http_status == http


ACCEPTED = """Task created|Request accepted|You are queued|Delayed|Pending|Processing|Submitted|In progress
Scheduled|OK|Successful|Request received|ＣＲＥＡＴＥＤ|cre\u00adated|**Created**|任务已创建
創建成功|已提交|提交成功|已受理|排队中|排隊中|正在处理|處理中|生成中|等待处理|延迟处理|操作成功
作成しました|受付完了|処理中|待機中|キューに追加|생성되었습니다|접수되었습니다|대기 중|처리중
Erstellt|Angenommen|In Bearbeitung|Verzögert|In der Warteschlange|Créé|Tâche acceptée|En attente
En cours|Retardé|Creada|Aceptado|En cola|Pendiente|En proceso|Retrasado|Criado|Aceito|Na fila
Em andamento|Creato|In coda|In attesa|Aangemaakt|In behandeling|Utworzono|W kolejce|Przyjęto
Vytvořeno|Skapad|Oprettet|Oluşturuldu|Kuyruğa alındı|Đã tạo|Đang xử lý|Dibuat|Menunggu
Задача создана|В очереди|Принято|Ожидает обработки|Створено|تم إنشاء المهمة|قيد المعالجة|कतार में
सफल|กำลังดำเนินการ|สำเร็จ|Δημιουργήθηκε|נוצר|შეიქმნა""".replace("\n", "|").split("|")


@pytest.mark.parametrize("message", ACCEPTED)
def test_a_message_under_code_200_that_speaks_of_acceptance_is_in_doubt(message: str) -> None:
    for text in (message, message.upper(), f"Hello. {message}, id follows"):
        for code in (200, 0, 201):
            with pytest.raises(InDoubtError):
                submitted(200, envelope(code, text))


@pytest.mark.parametrize(
    "message",
    ["您提交的内容违规", "任务创建失败", "队列已满", "无法处理", "未成功", "余额不足", "提示词不合规",
     "The uploaded image was refused", "Prompt violates the policy", "Contenu interdit", "Prompt verboten",
     "内容に違反があります", "부적절한 내용", "error 17"],
)  # fmt: skip
def test_a_message_under_code_200_that_speaks_of_no_acceptance_is_a_refusal(message: str) -> None:
    with pytest.raises(RejectedError):
        submitted(200, envelope(200, message))


def test_a_limit_is_waited_for_unless_the_message_says_that_the_request_was_accepted() -> None:
    for message in ("Too many queued tasks", "6 tasks are pending; wait until one is done", "Too many requests"):
        with pytest.raises(TooManyRunningTasksError):
            submitted(429, envelope(429, message))
    for message in ("Too many tasks: the request is delayed", "Too many running tasks. Queued.", "任务过多，已排队"):
        with pytest.raises(InDoubtError):
            submitted(429, envelope(429, message))


@pytest.mark.parametrize(
    "location",
    ["/v1/tasks?task_id=1", "https://h.test/api/v1/tasks/8fz2", "https://h.test/result/7", "/x?id=7", "/records/9"],
)
def test_a_location_that_may_name_a_task_is_in_doubt(location: str) -> None:
    for http, body in ((303, b""), (302, HTML), (307, envelope(400, "no")), (400, b"")):
        with pytest.raises(InDoubtError, match="Location: "):
            parse_submit(ApiResponse.parse(http, body, location=location))


@pytest.mark.parametrize("location", [None, "/login", "https://loova.ai/api/v1/video/seedance-2", "https://h.test/"])
def test_a_redirect_that_names_no_task_is_a_refusal(location: str | None) -> None:
    with pytest.raises(RejectedError, match="base URL"):
        parse_submit(ApiResponse.parse(302, b"", location=location))


@pytest.mark.parametrize(
    "body",
    [b'{"code": 400, "data": {"task_id": "t-1"', b'{"data": ' + b"[" * 100_000, b"task_id=77", b"Your task id is 77",
     b'<p>Task <b>id</b> 5</p><script>{"taskId": "t"}</script>', "任务编号 77".encode()],
)  # fmt: skip
def test_a_body_that_cannot_be_read_and_may_name_a_task_is_in_doubt_whatever_its_status(body: bytes) -> None:
    for http in (200, 302, 400, 401, 429):
        with pytest.raises(InDoubtError, match="the body: "):
            submitted(http, body)


@pytest.mark.parametrize(
    "more",
    [{"timestamp": 1764286000123}, {"error_code": "E100012"}, {"path": "prompt"}, {"time": "2026-11-27T12:00:00Z"},
     {"details": [{"field": "prompt", "rule": "at most 800"}]}, {"success": False}, {"limit": 100000},
     {"trace_id": "a8f2-77"}, {"model": "seedance_2_0"}, {"running_tasks": 6}],
)  # fmt: skip
def test_fields_that_name_no_task_do_not_change_a_refusal(more: dict[str, Any]) -> None:
    for body in (envelope(400, "no", more), envelope(200, "no", more), envelope(10001, "no", None, **more)):
        with pytest.raises(RejectedError):
            submitted(200, body)


# Refused content.


@pytest.mark.parametrize(
    "message",
    [
        "InputTextSensitiveContentDetected",
        "OutputVideoSensitiveContentDetected.PolicyViolation",
        "The request failed because the input text may contain sensitive information",
        "content_policy_violation",
        "Your prompt violates our usage guidelines.",
        "The prompt was refused by moderation",
        "The image shows a real person",
        "提示词包含违规内容",
    ],
)
def test_a_message_about_content_is_a_refusal_of_content(message: str) -> None:
    with pytest.raises(InputRefusedError):
        submitted(400, envelope(400, message))
    failed = {"status": "failed", "result": {"status": "failed", "error_message": message}}
    assert parse_task(ApiResponse.parse(200, envelope(200, "success", failed)), "t").content_refused


@pytest.mark.parametrize(
    "message",
    ["duration must be at least 4", "model names are case-sensitive", "The generation failed", "internal error"],
)
def test_other_messages_are_not_about_content(message: str) -> None:
    with pytest.raises(RejectedError) as caught:
        submitted(400, envelope(400, message))
    assert type(caught.value) is RejectedError
    failed = {"status": "failed", "result": {"status": "failed", "error_message": message}}
    assert not parse_task(ApiResponse.parse(200, envelope(200, "success", failed)), "t").content_refused


def test_a_limit_a_key_and_missing_credits_go_before_content() -> None:
    for code, kind in ((401, AuthenticationError), (402, InsufficientCreditsError), (429, TooManyRunningTasksError)):
        with pytest.raises(kind):
            submitted(200, envelope(code, "refused by moderation"))


# What a user adds.


def test_a_refusal_phrase_turns_a_doubt_into_a_refusal() -> None:
    for http, code, message in (
        (200, 500, "Prompt BLOCKED  by policy"),
        (200, 200, "Processing ended: prompt blocked by policy"),
        (409, 409, "prompt blocked by policy"),
        (429, 429, "queued: prompt blocked by policy"),
    ):
        with pytest.raises(InDoubtError):
            submitted(http, envelope(code, message))
        with pytest.raises(RejectedError) as caught:
            submitted(http, envelope(code, message), refusal_phrases=["blocked by Policy"])
        assert type(caught.value) is RejectedError


def test_a_refusal_phrase_never_hides_a_task() -> None:
    phrases = ["blocked"]
    assert submitted(200, envelope(200, "blocked", {"task_id": "t"}), refusal_phrases=phrases).task_id == "t"
    for http, body in (
        (200, envelope(200, "blocked", {"record_id": "r"})),
        (202, envelope(400, "blocked")),
        (502, envelope(400, "blocked")),
        (200, b"blocked"),
    ):
        with pytest.raises(InDoubtError):
            submitted(http, body, refusal_phrases=phrases)


@pytest.mark.parametrize("phrase", ["", "  ", "no", "\u200b\u200b\u200b"])
def test_a_refusal_phrase_that_is_too_short_is_refused(phrase: str) -> None:
    with pytest.raises(InvalidRequestError, match="refusal_phrases"):
        LoovaClient("key", refusal_phrases=[phrase])


# Bounds.

LONG = "x" * 3_000_000


def test_long_texts_of_loova_do_not_make_a_purchase_or_a_record_large() -> None:
    result = {"status": LONG, "error_message": LONG, "video_url": f"https://h/{LONG}", "finished_at": LONG}
    data = {"task_id": "t", "status": LONG, "model": LONG, "created_at": LONG, "credits_cost": LONG, "result": result}
    answer = ApiResponse.parse(200, envelope(200, LONG, data, trace_id=LONG))
    for task in (parse_submit(answer), parse_task(answer, "t")):
        assert task.task_id == "t"
        assert len(repr(task)) < 4_000
        assert len(task.trace_id or "") == 200
        assert (task.video_url, task.credits_cost) == (None, None)


def test_long_texts_of_loova_do_not_make_an_error_large() -> None:
    for http, body in ((400, envelope(400, LONG, trace_id=LONG)), (200, envelope(200, "no", {LONG: {"id": LONG}}))):
        with pytest.raises(LoovaError) as caught:
            submitted(http, body)
        assert len(repr(vars(caught.value))) < 5_000
        assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "data",
    [
        lambda size: {"reason": ["no"] * (size // 4)},
        lambda size: {"reason": [[]] * (size // 15)},
        lambda size: {"reasons": [{"why": "no"}] * (size // 15)},
        lambda size: {f"r{number}": "no" for number in range(size // 15)},
        lambda size: {"state": "x" * size},
        lambda size: {"reason": "task " * (size // 5)},
        lambda size: {"reason": "-" * size},
        lambda size: {"text": " ".join(["created"] * (size // 10))},
    ],
    ids=["texts", "lists", "objects", "fields", "a state", "words", "dashes", "created"],
)
def test_the_search_for_a_task_takes_time_in_proportion_to_the_answer(data: Callable[[int], Any]) -> None:
    def seconds(size: int) -> float:
        body = envelope(400, "no", data(size))
        started = time.thread_time()
        with pytest.raises(LoovaError):
            submitted(400, body)
        return time.thread_time() - started

    short, long = (min(seconds(size) for _ in range(3)) for size in (300_000, 3_000_000))
    assert long < 30 * short + 0.5  # 100 times, if each part were compared with each other one


@pytest.mark.parametrize("length", [200, 999, 1_000])
def test_a_long_task_id_is_kept_whole(length: int) -> None:
    task_id = "i" * length
    assert submitted(200, envelope(data={"task_id": task_id})).task_id == task_id


@pytest.mark.parametrize("task_id", ["i" * 1_001, LONG, 10**3_000])
def test_a_task_id_that_is_too_long_to_keep_is_in_doubt_with_its_beginning_and_hash(task_id: Any) -> None:
    for http, code, message in ((200, 200, "success"), (200, 10001, "no"), (400, 400, "no"), (429, 429, "no")):
        with pytest.raises(InDoubtError, match=r"data\.task_id: '.{100,}' \([\d,]+ characters, SHA-256 [0-9a-f]{64}\)"):
            submitted(http, envelope(code, message, {"task_id": task_id}))


def test_a_message_that_was_cut_is_not_a_refusal_by_its_words() -> None:
    for code in (200, 10001):
        with pytest.raises(InDoubtError):
            submitted(200, envelope(code, "refused " + LONG))
    with pytest.raises(RejectedError):
        submitted(400, envelope(400, "refused " + LONG))


DEEP = [b"[" * 500_000, b'{"data":' * 200_000, b'{"code":200,"data":' + b"[" * 900 + b"]" * 900 + b"}"]


@pytest.mark.parametrize("body", DEEP, ids=["lists", "objects", "900 lists"])
@pytest.mark.parametrize("http", [200, 302, 400, 401, 404, 429, 500])
def test_deeply_nested_json_is_parsed_like_any_other_answer(http: int, body: bytes) -> None:
    with pytest.raises(LoovaError):
        submitted(http, body)
    for read in (lambda answer: parse_task(answer, "t"), parse_credits):
        with pytest.raises(LoovaError):
            read(ApiResponse.parse(http, body))


@pytest.mark.parametrize(
    "cost", [-1, -0.01, "-5", float("nan"), "nan", float("inf"), True, False, "many", [], {}, 1e300]
)
def test_a_cost_that_cannot_be_a_charge_is_logged_and_ignored(cost: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert submitted(200, envelope(data={"task_id": "t", "credits_cost": cost})).credits_cost is None
    ended = {"task_id": "t", "status": "succeeded", "credits_cost": cost}
    assert parse_task(ApiResponse.parse(200, envelope(data=ended)), "t").credits_cost is None
    told = [record.getMessage() for record in logged(caplog)]
    assert len(told) == 2
    assert all("credits_cost" in line and "task t" in line and "ignored" in line for line in told)


@pytest.mark.parametrize("cost", [None, 0, 0.0, 75, "12.5", 1_000_000])
def test_a_cost_that_is_a_charge_is_kept_without_a_log_line(cost: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    task = submitted(200, envelope(data={"task_id": "t", "credits_cost": cost}))
    assert task.credits_cost == (None if cost is None else float(cost))
    assert caplog.records == []


def test_an_error_carries_what_the_answer_says() -> None:
    with pytest.raises(RejectedError) as caught:
        submitted(422, envelope(4220, "no\nway\x1b[31m"))
    error = caught.value
    assert (error.http_status, error.code, error.trace_id) == (422, 4220, "trace_1")
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert "trace_1" in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("running"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RESULTS = st.fixed_dictionaries(
    {}, optional={"status": JSON, "video_url": JSON, "error_message": JSON, "finished_at": JSON}
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        "task_id": JSON,
        "status": JSON,
        "model": JSON,
        "created_at": JSON,
        "credits_cost": JSON,
        "result": JSON | RESULTS,
        "api_available_credits": JSON,
        "api_total_credits": JSON,
    },
)
CODES = st.sampled_from([200, 400, 401, 404, 429, 500, 503, 200.0, "200"]) | JSON
ENVELOPES = st.fixed_dictionaries({}, optional={"code": CODES, "trace_id": JSON, "message": JSON, "data": JSON | DATA})
BODIES = st.binary() | (JSON | ENVELOPES).map(lambda value: json.dumps(value).encode())
STATUSES = st.integers(100, 599) | st.just(200)


@given(STATUSES, BODIES, st.booleans())
@example(200, b'{"code":1' + b"0" * 4000 + b"}", False)
@example(200, rb'{"message":"\ud800","trace_id":"\udfff","code":400}', False)
def test_any_answer_to_a_submit_is_a_task_id_a_refusal_or_a_doubt(http: int, body: bytes, refused: bool) -> None:
    try:
        task = submitted(http, body, unavailable_means_refused=refused)
    except (RejectedError, InDoubtError) as error:
        assert error.task_id is None
        str(error).encode()
    else:
        assert task.task_id.strip()
        task.model_dump_json().encode()


@given(STATUSES, BODIES)
def test_any_answer_to_a_read_is_a_value_or_an_error_of_this_package(http: int, body: bytes) -> None:
    for read in (lambda answer: parse_task(answer, "t"), parse_credits):
        try:
            read(ApiResponse.parse(http, body)).model_dump_json().encode()
        except LoovaError as error:
            assert not isinstance(error, InDoubtError)
            str(error).encode()


# Polls.


def polled(body: bytes, http: int = 200) -> Any:
    return parse_task(ApiResponse.parse(http, body), "record_id")


def test_the_contradiction_of_the_quickstart_is_a_success() -> None:
    task = polled(QUICKSTART_POLL)
    assert (task.state, task.status, task.video_url) == ("succeeded", "succeeded", "https://...")
    assert (task.model, task.credits_cost, task.error_message) == ("seedance_2_0", 12.0, None)
    assert task.finished_at == datetime(2024, 1, 1, 12, 2, tzinfo=UTC)
    assert task.updated_at == datetime(2024, 1, 1, 12, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "result", "state"),
    [
        ("running", None, "running"),
        ("succeeded", None, "succeeded"),
        ("success", None, "succeeded"),
        ("completed", None, "succeeded"),
        ("SUCCEEDED", None, "succeeded"),
        ("failed", None, "failed"),
        ("error", None, "failed"),
        ("canceled", None, "failed"),
        ("cancelled", None, "failed"),
        ("queued", None, "running"),
        ("post_processing", None, "running"),
        ("failing", None, "running"),
        ("", None, "running"),
        (None, None, "running"),
        (5, "soon", "running"),
        ("running", {}, "running"),
        ("failed", {}, "failed"),
        ("running", {"status": "succeeded"}, "succeeded"),
        ("running", {"status": " Success "}, "succeeded"),
        ("running", {"status": "failed"}, "failed"),
        ("succeeded", {"status": "failed", "video_url": None}, "failed"),
        ("failed", {"status": "succeeded", "video_url": "https://v"}, "succeeded"),
        ("succeeded", {"status": "running"}, "running"),
        ("failed", {"status": "retrying"}, "running"),
        ("running", {"status": None, "video_url": "https://v"}, "succeeded"),
        ("running", {"video_url": "https://v"}, "succeeded"),
        ("running", {"status": None, "video_url": None, "error_message": None}, "running"),
        ("running", {"status": None, "video_url": "", "error_message": ""}, "running"),
        ("succeeded", {"status": None, "video_url": None}, "succeeded"),
        ("running", {"error_message": "hm"}, "running"),
    ],
)
def test_the_result_overrides_the_status_and_an_unknown_state_is_not_final(
    status: Any, result: Any, state: str
) -> None:
    data = {"task_id": "record_id", "status": status, "result": result, "extra": [1]}
    assert polled(envelope(data=data)).state == state


def test_missing_fields_of_a_task_are_none_and_others_are_ignored() -> None:
    task = polled(envelope(message=None, data={"status": "running", "progress": 0.5}, more=1))
    assert (task.task_id, task.state, task.credits_cost, task.created_at) == ("record_id", "running", None, None)
    assert polled(envelope(data={"task_id": "record_id", "result": {"status": "failed"}})).state == "failed"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-01-01T12:00:00Z", datetime(2024, 1, 1, 12, tzinfo=UTC)),
        ("2024-01-01T12:00:00", datetime(2024, 1, 1, 12, tzinfo=UTC)),
        ("2024-01-01 12:00:00.5", datetime(2024, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-01-01T14:00:00+02:00", datetime(2024, 1, 1, 12, tzinfo=UTC)),
        ("yesterday", None),
        (1704110400, None),
        (None, None),
    ],
)
def test_times_are_parsed_with_or_without_a_zone(text: Any, time: datetime | None) -> None:
    task = polled(envelope(data={"status": "running", "created_at": text}))
    assert task.created_at == time
    assert task.created_at is None or task.created_at.tzinfo is not None


@pytest.mark.parametrize(("cost", "read"), [(12, 12.0), (12.5, 12.5), ("12.5", 12.5), (True, None), ("x", None)])
def test_credits_are_parsed_from_numbers_and_text(cost: Any, read: float | None) -> None:
    assert polled(envelope(data={"status": "running", "credits_cost": cost})).credits_cost == read


def test_a_failed_task_is_a_value_with_its_reason() -> None:
    data = {"status": "failed", "result": {"status": "failed", "error_message": "moderation"}}
    task = polled(envelope(data=data))
    assert (task.state, task.error_message, task.video_url) == ("failed", "moderation", None)


@pytest.mark.parametrize(
    ("http", "body", "kind"),
    [
        (401, b"", AuthenticationError),
        (200, envelope(401, "Authentication failed"), AuthenticationError),
        (403, HTML, AuthenticationError),
        (404, HTML, TaskNotFoundError),
        (410, b"", TaskNotFoundError),
        (200, envelope(404, "Task not found"), TaskNotFoundError),
        (200, envelope(200, "Task not found"), UnexpectedResponseError),
        (200, envelope(200, "success"), UnexpectedResponseError),
        (200, envelope(200, "success", []), UnexpectedResponseError),
        (200, envelope(200, "success", {}), UnexpectedResponseError),
        (200, envelope(200, "success", {"task_id": "record_id"}), UnexpectedResponseError),
        (200, envelope(200, "success", {"task_id": "another", "status": "succeeded"}), UnexpectedResponseError),
        (200, envelope(500, "no", {"status": "failed"}), UnexpectedResponseError),
        (500, envelope(200, "success", {"status": "failed"}), UnexpectedResponseError),
        (302, envelope(200, "success", {"status": "failed"}), UnexpectedResponseError),
        (200, envelope(None, "success", {"status": "failed"}), UnexpectedResponseError),
        (200, HTML, UnexpectedResponseError),
        (200, b"", UnexpectedResponseError),
        (200, b"[]", UnexpectedResponseError),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_answer_to_a_poll_that_shows_no_task_is_an_error_and_never_a_failed_video(
    http: int, body: bytes, kind: type[LoovaError]
) -> None:
    with pytest.raises(LoovaError) as caught:
        polled(body, http)
    assert type(caught.value) is kind


# Credits.


def test_credits_are_read() -> None:
    body = (
        b'{"code": 200, "trace_id": "...", "message": null,'
        b' "data": {"api_available_credits": 47995, "api_total_credits": 51000}}'
    )
    balance = parse_credits(ApiResponse.parse(200, body))
    assert (balance.available, balance.total) == (47995, 51000)


@pytest.mark.parametrize(
    "data", [None, {}, {"api_available_credits": 5}, {"api_available_credits": None, "api_total_credits": 5}]
)
def test_an_answer_without_credits_is_unexpected(data: Any) -> None:
    with pytest.raises(UnexpectedResponseError, match="credits"):
        parse_credits(ApiResponse.parse(200, envelope(data=data)))


def test_an_echoed_secret_is_removed_but_ids_and_urls_stay_whole() -> None:
    result = {"status": "failed", "error_message": "key K1234 is bad", "video_url": "https://K1234.test/"}
    data = {"task_id": "t_K1234", "status": "for K1234", "result": result}
    task = parse_task(ApiResponse.parse(200, envelope(data=data)).without("K1234"), "t_K1234")
    assert task.error_message == "key [API key] is bad"
    assert (task.task_id, task.video_url) == ("t_K1234", "https://K1234.test/")
    answer = ApiResponse.parse(400, envelope(400, "K1234 is \\u004b1234 K1234", trace_id="K1234")).without("K1234")
    assert "K1234" not in f"{answer.message}{answer.trace_id}"


@pytest.mark.parametrize("before", [*range(90, 125), *range(170, 205), *range(1_970, 2_005)])
def test_a_secret_at_the_cut_of_a_long_text_is_removed_whole(before: int) -> None:
    text = "é" * before + "Bearer-0123456789-abcdef" + "é" * 3_000
    body = envelope(400, text, {"id": text}, trace_id=text)
    answer = ApiResponse.parse(400, body).without("Bearer-0123456789-abcdef")
    assert "Bearer-0" not in f"{answer.message}{answer.trace_id}{answer.task_evidence}"


def test_a_key_that_is_a_word_of_the_envelope_does_not_change_a_purchase() -> None:
    for key in ("data", "task_id", "a", "200", "t"):
        assert parse_submit(ApiResponse.parse(200, envelope(data={"task_id": "task"})).without(key)).task_id == "task"
