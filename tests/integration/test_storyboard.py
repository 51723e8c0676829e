"""Stories of several shots, on a real Prefect server: made once, killed, continued, changed, and joined."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
import wave
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import sin
from pathlib import Path
from typing import Any, cast

import av
import pytest
import yaml
from PIL import Image, ImageChops, ImageStat
from prefect.settings import PREFECT_API_URL

from prefect_loova import BatchError, BudgetError, SavedVideo, StoryReport, VideoRequest, generate_storyboard
from prefect_loova._prefect.context import Location
from prefect_loova.batches.plan import PlannedVideo, RunBudget
from prefect_loova.batches.story import StoryPlan, StoryRun
from prefect_loova.batches.storyboard import read_storyboard
from prefect_loova.errors import InvalidRequestError, StorageError
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.video.frames import frame_of
from tests.integration.conftest import TIMES, block_of, left_in_the_middle_of_the_submit
from tests.support.media_host import Host
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import PREFIX, minimal_policy

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]

STORY = """
title: A day at the harbour
duration: 4
shots:
  - {prompt: "@image1 leaves the harbour", image_urls: [boat.png]}
  - {prompt: the boat meets the fog, continue: true}
  - {prompt: the fog lifts, continue: true}
  - {prompt: on the shore a child waits}
  - {prompt: the child sees the boat, continue: true}
  - {prompt: the child runs, continue: true}
"""

SHORT = """
duration: 4
shots:
  - {prompt: the boat}
  - {prompt: the fog, continue: true}
  - {prompt: the shore, continue: true}
  - {prompt: a child}
"""

CHILD = """
import asyncio, json, sys
from pydantic import SecretStr
from prefect_loova import LoovaCredentials, generate_storyboard
from tests.integration.conftest import block_of
from tests.support.s3_servers import Bucket, S3Server
given = json.load(sys.stdin)
bucket = Bucket(given["bucket"])
bucket.server = S3Server(**given["server"])
credentials = LoovaCredentials(api_key=SecretStr(given["api_key"]), base_url=given["base_url"])
asyncio.run(generate_storyboard(given["story"], credentials, block_of(bucket, *given["keys"]), poll_seconds=0.1))
"""


@pytest.fixture
def story(tmp_path: Path) -> Path:
    down = Image.linear_gradient("L").resize((640, 360))
    Image.merge("RGB", (down, down.rotate(180), Image.new("L", down.size, 90))).save(tmp_path / "boat.png")
    path = tmp_path / "harbour.yaml"
    path.write_text(STORY)
    return path


async def make(story: Path, place, **options: Any) -> StoryReport:
    return await generate_storyboard(str(story), place.credentials, place.bucket, poll_seconds=0.1, **options)


def loaded(bucket, uri: str | None) -> bytes:
    assert uri is not None
    return bucket.client.get_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"))["Body"].read()


def purchases(bucket) -> int:
    """How many job records have the id of a Loova task."""
    found = bucket.client.list_objects_v2(Bucket=bucket, Prefix="loova/").get("Contents", [])
    records = [loaded(bucket, f"s3://{bucket}/{one['Key']}") for one in found if one["Key"].endswith("record.json")]
    return sum(json.loads(record)["attempts"][-1].get("task_id") is not None for record in records)


def difference(one: bytes, other: bytes) -> float:
    """How far apart two frames are, as the root of the mean square of 255 steps."""
    first, second = (Image.open(io.BytesIO(png)).convert("RGB") for png in (one, other))
    return max(ImageStat.Stat(ImageChops.difference(first, second)).rms)


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def seconds_of(video: bytes) -> float:
    with av.open(io.BytesIO(video)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    return frames / 24


async def test_a_story_that_is_killed_and_run_again_pays_for_each_shot_once(story, place, bucket, loova):
    given = {
        "story": str(story),
        "api_key": loova.api_key,
        "base_url": loova.base_url,
        "bucket": str(bucket),
        "server": asdict(bucket.server),
        "keys": bucket.limited_keys,
    }
    env = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, env=env)
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    async with asyncio.timeout(120):
        # A kill between a submit and its record leaves a doubt: kill when each submit is recorded.
        while (recorded := purchases(bucket)) < 3 or recorded < loova.ledger["totals"]["posted"]:
            assert process.poll() is None
            await asyncio.sleep(0.05)
    process.kill()
    process.wait()
    assert loova.ledger["totals"]["billed"] < 6

    report = await make(story, place)
    assert loova.ledger["totals"]["billed"] == 6
    assert report.shots.count("saved", "reused") == 6

    film, shots = loaded(bucket, report.film), [loaded(bucket, shot.video) for shot in report.shots.videos]
    assert seconds_of(film) == pytest.approx(sum(map(seconds_of, shots)), abs=1 / 24)
    assert report.duration_seconds == pytest.approx(24, abs=1 / 24)
    for before, after in ((0, 1), (1, 2), (3, 4), (4, 5)):
        last, first = frame_of(io.BytesIO(shots[before]), "last"), frame_of(io.BytesIO(shots[after]), "first")
        assert difference(last, first) < 8
    cut = frame_of(io.BytesIO(shots[2]), "last"), frame_of(io.BytesIO(shots[3]), "first")
    assert difference(*cut) > 8
    assert Image.open(io.BytesIO(loaded(bucket, report.contact_sheet))).format == "JPEG"

    again = await make(story, place)
    assert (again.film, again.sha256) == (report.film, report.sha256)
    assert again.shots.count("reused") == 6
    assert again.shots.credits_charged == 0


@pytest.mark.workers
def test_a_simulated_command_that_is_killed_bills_each_shot_once(story, tmp_path):
    """Loova and the S3 server die with it, and come back with what they had written."""
    state = tmp_path / "state"
    words = [sys.executable, "flows/storyboard.py", str(story), "--simulate", "--state", str(state)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    given: dict[str, Any] = {"env": env | {"PREFECT_HOME": str(tmp_path / "home")}, "cwd": Path(__file__).parents[2]}
    with subprocess.Popen(words, **given, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        bought = 0
        while bought < 3:
            line = process.stderr.readline()
            assert line, "it ended before the third purchase"
            bought += "is bought" in line
        time.sleep(0.5)  # a kill between a submit and its note leaves a doubt, which other tests look at
        os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(words, **given, check=True, timeout=300)
    with LoovaSimulator(state=state / "loova", port=int((state / "loova" / "port").read_text())) as loova:
        assert loova.ledger["totals"]["billed"] == 6

    (path,) = (state / "videos").glob("harbour-*.mp4")
    with av.open(str(path)) as film:
        frames = [frame.to_image() for frame in film.decode(video=0)]
    assert len(frames) == 6 * 4 * 24
    edges = [difference(*(as_png(frame) for frame in frames[at - 1 : at + 1])) for at in range(96, 576, 96)]
    assert [edge < 8 for edge in edges] == [True, True, False, True, True], edges


async def test_a_changed_shot_and_those_that_continue_it_are_paid_again(story, place, bucket, loova):
    story.write_text(SHORT)
    first = await make(story, place)
    story.write_text(SHORT.replace("the fog", "a whale"))
    second = await make(story, place)
    assert loova.ledger["totals"]["billed"] == 6
    assert [shot.outcome for shot in second.shots.videos] == ["reused", "saved", "saved", "reused"]
    assert second.shots.videos[0].key == first.shots.videos[0].key
    assert second.film != first.film
    assert loaded(bucket, first.film)


def kept(story: Path, keep: dict[int, str], changed: dict[int, str]) -> None:
    """Write the story of six shots with a line `keep` in some shots, and other prompts in others."""
    board = yaml.safe_load(STORY)
    for number, key in keep.items():
        board["shots"][number - 1]["keep"] = key
    for number, prompt in changed.items():
        board["shots"][number - 1]["prompt"] = prompt
    story.write_text(json.dumps(board))
    story.rename(story.with_suffix(".json"))


@pytest.fixture
def listing_place(place, bucket) -> Location:
    """The place for a user that may list the prefix too."""
    policy = minimal_policy(bucket, PREFIX, optional=["OptionalTellMissingFromForbiddenAndListJobs"])
    return Location(place.credentials, block_of(bucket, *bucket.server.add_user(policy)))


async def test_a_shot_is_shot_again_and_the_kept_ones_after_it_are_not_paid_again(
    story, listing_place, bucket, loova, caplog
):
    place = listing_place
    first = await make(story, place)
    keys = {shot.rows[0]: shot.key for shot in first.shots.videos}
    kept(story, {5: keys[5], 6: keys[6][:12]}, {4: "on the shore a dog waits", 5: "is ignored"})
    changed = story.with_suffix(".json")

    dry = await make(changed, place, dry_run=True)
    assert [shot.outcome for shot in dry.shots.videos] == [*["reused"] * 3, "not_started", *["reused"] * 2]
    for number in (1, 2, 3, 5, 6):
        assert f"shot {number} is in the bucket; to keep it: `keep: {keys[number]}`" in caplog.text
    assert loova.ledger["totals"]["posted"] == 6

    second = await make(changed, place)
    assert loova.ledger["totals"]["posted"] == loova.ledger["totals"]["billed"] == 7
    assert [shot.outcome for shot in second.shots.videos] == [*["reused"] * 3, "saved", *["reused"] * 2]
    assert [shot.video for shot in second.shots.videos[4:]] == [shot.video for shot in first.shots.videos[4:]]
    assert [shot.name for shot in second.shots.videos[4:]] == [shot.name for shot in first.shots.videos[4:]]
    assert second.film != first.film
    assert seconds_of(loaded(bucket, second.film)) == pytest.approx(24, abs=1 / 24)

    # The new shot 4 ends otherwise; shot 6 still begins where shot 5 ends.
    assert [seam.shot for seam in second.seams] == [5, 6]
    cut, whole = (seam.distance for seam in second.seams)
    assert cut > 0.05 > 0.02 > whole
    assert f"shot 5 is kept: its seam has a distance of {cut:.3f}" in caplog.text


async def test_a_shot_continues_a_kept_one(story, place, loova):
    story.write_text(SHORT)
    first = await make(story, place)
    key = first.shots.videos[1].key
    story.write_text(
        SHORT.replace("the boat", "a ship").replace("{prompt: the fog, continue: true}", f"{{keep: {key}}}")
    )
    second = await make(story, place)
    assert [shot.outcome for shot in second.shots.videos] == ["saved", "reused", "reused", "reused"]
    assert second.shots.videos[2].key == first.shots.videos[2].key
    assert second.seams == ()
    assert loova.ledger["totals"]["billed"] == 5


async def test_what_cannot_be_kept_is_reported_by_shot_before_anything_is_spent(story, listing_place, bucket, loova):
    place = listing_place
    story.write_text(SHORT)
    loova.fail("generation_failed", prompt="a child", times=None)
    with pytest.raises(BatchError) as caught:
        await make(story, place)
    boat, fog, _, child = (shot.key for shot in caught.value.report.videos)
    bucket.client.delete_object(Bucket=bucket, Key=f"loova/{fog}/video.mp4")
    unknown = "ab" * 32
    story.write_text(
        f"[{{prompt: a new one}}, {{keep: {child}}}, {{keep: {unknown}}}, {{keep: {unknown[:9]}}}, {{keep: {fog}}}, "
        f"{{prompt: b, image_urls: [no.png]}}, {{keep: {boat}}}]"
    )
    posted = loova.ledger["totals"]["posted"]
    with pytest.raises(InvalidRequestError) as refused:
        await make(story, place)
    *told, missing = str(refused.value).splitlines()
    assert told == [
        f"shot 2: keep: '{child}' was given: its job is failed, and only a saved video can be kept",
        f"shot 3: keep: '{unknown}' was given: no job has this key, or its record may not be read",
        "shot 4: keep: 'ababababa' was given: no job begins so",
        f"shot 5: keep: '{fog}' was given: its video is missing from the bucket",
    ]
    assert missing.startswith("shot 6: image_urls.0: 'no.png' was given: there is no such file")
    assert loova.ledger["totals"]["posted"] == posted


async def test_without_a_list_of_jobs_only_a_whole_key_can_be_kept(story, place, bucket, loova):
    story.write_text(TWO)
    keys = [shot.key for shot in (await make(story, place)).shots.videos]
    story.write_text(f"[{{keep: {keys[0]}}}, {{keep: {keys[1]}}}]")
    assert (await make(story, place)).shots.count("reused") == 2
    story.write_text(f"[{{keep: {keys[0][:12]}}}]")
    with pytest.raises(InvalidRequestError, match=r"shot 1: keep: .*s3:ListBucket.* a job's whole key works"):
        await make(story, place)


async def test_a_seam_that_cannot_be_measured_fails_no_story(story, place, bucket, loova, caplog):
    story.write_text(TWO)
    first = await make(story, place)
    key = first.shots.videos[1].key
    story.write_text(f"shots: [{{prompt: the boat, duration: 4}}, {{continue: true, keep: {key}}}]")
    video = loaded(bucket, first.shots.videos[0].video)
    place_of_it = {"Bucket": bucket, "Key": first.shots.videos[0].video.removeprefix(f"s3://{bucket}/")}
    bucket.client.put_object(**place_of_it, Body=bytes(len(video)))
    report = await make(story, place)  # its film was joined before
    assert (report.film, report.seams) == (first.film, ())
    assert "shot 2: the seam before it cannot be measured" in caplog.text


async def test_a_story_is_priced_and_admitted_as_a_whole(story, place, bucket, loova):
    dry = await make(story, place, dry_run=True)
    assert [shot.outcome for shot in dry.shots.videos] == ["not_started"] * 6
    assert sum(shot.credits_estimate for shot in dry.shots.videos) == 360
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket, Prefix="loova/_media/")
    with pytest.raises(BudgetError, match="6 of 6 videos are to be bought, for up to 360 credits"):
        await make(story, place, max_credits=359)
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_failed_shot_stops_only_the_shots_that_continue_it(story, place, loova):
    story.write_text(SHORT)
    loova.fail("generation_failed", prompt="the fog", times=None)
    with pytest.raises(BatchError) as caught:
        await make(story, place)
    outcomes = [shot.outcome for shot in caught.value.report.videos]
    assert outcomes == ["saved", "failed", "not_started", "saved"]
    assert "it continues shot 2, which is missing" in str(caught.value)
    assert loova.ledger["totals"]["billed"] == 3
    loova.clear_faults()
    report = await make(story, place, max_paid_attempts=2)
    assert report.film
    assert loova.ledger["totals"]["billed"] == 5


async def test_a_shot_without_its_first_frame_is_not_started_and_stops_nothing_else():
    async def unreachable(_: VideoRequest) -> VideoRequest:
        raise StorageError("S3 is away", transient=True)

    _, shot = read_storyboard(SHORT.encode(), "a.yaml").shots[:2]
    before = SavedVideo(
        key="1" * 64,
        task_id="t",
        video="s3://b1/v.mp4",
        record="s3://b1/r",
        size_bytes=1,
        sha256="ab" * 32,
        credits_cost=1,
        reused=False,
    )
    state = StoryPlan({2: shot}, 1, videos={2: PlannedVideo(shot.request, (2,), price=60.0)}, saved={1: before})
    unused = cast("Any", None)
    run = StoryRun(unused, state, RunBudget(None), unused, unreachable, asyncio.Semaphore(1), lambda _: None)
    outcome = await run._make(shot)
    assert (outcome.outcome, outcome.credits_charged) == ("not_started", 0)
    assert "nothing was bought: S3 is away" in outcome.reason


async def test_the_urls_of_all_shots_are_checked_before_the_first_is_paid_for(story, place, loova):
    host = Host()
    story.write_text(SHORT.replace("a child", f"a child, image_urls: [{host.url('/gone.png')}]"))
    with pytest.raises(InvalidRequestError, match=r"^shot 4: image_urls.0: .*HTTP 404"):
        await make(story, place)
    host.close()
    assert loova.ledger["totals"]["posted"] == 0


async def test_jobs_in_doubt_of_earlier_runs_do_not_stop_a_story(story, place, loova):
    shots = [{"prompt": f"shot {number}", "duration": 4} for number in range(5)]
    story.write_text(json.dumps(shots[:3]))
    loova.fail("lost_reply", times=3)
    with pytest.raises(BatchError):
        await make(story, place)
    shots[4]["continue"] = True  # its turn comes when the three have been looked at
    story.write_text(json.dumps(shots))
    with pytest.raises(BatchError) as caught:
        await make(story, place)
    assert [shot.outcome for shot in caught.value.report.videos] == ["in_doubt"] * 3 + ["saved"] * 2


def independent(story: Path, count: int) -> list[VideoRequest]:
    """Write a story of so many shots, none of which goes on from another; what they ask for."""
    story.write_text(json.dumps([{"prompt": f"shot {number}", "duration": 4} for number in range(count)]))
    return [shot.request for shot in read_storyboard(story.read_bytes(), story.name).shots]


async def test_three_lost_answers_stop_the_submits_of_a_story(story, place, loova):
    independent(story, 12)
    loova.fail("lost_reply", times=None)
    with pytest.raises(BatchError, match="answers were lost") as caught:
        await make(story, place)
    posted = loova.ledger["totals"]["posted"]
    assert 3 <= posted <= 8  # 6 at once, of which two are over before the third
    report = caught.value.report
    assert (report.count("in_doubt"), report.count("not_started")) == (posted, 12 - posted)


async def test_submits_of_a_killed_run_do_not_stop_the_next_story(story, place, loova):
    requests = independent(story, 12)
    await left_in_the_middle_of_the_submit(requests[:4], place)
    place.credentials.job_times = TIMES.model_copy(update={"doubt_after": 0})  # found before others are saved
    with pytest.raises(BatchError) as caught:
        await make(story, place)
    assert [shot.outcome for shot in caught.value.report.videos] == ["in_doubt"] * 4 + ["saved"] * 8
    assert loova.ledger["totals"]["posted"] == 8


TWO = "shots: [{prompt: the boat, duration: 4}, {prompt: the shore, duration: 4}]"


@contextmanager
def refusing(place: Location, bucket, path: str) -> Iterator[Location]:
    """A place whose bucket takes nothing at a path."""
    with Proxy(int(bucket.endpoint_url.rpartition(":")[2])) as proxy:
        proxy.inject(NetworkFault(what="answer", status=403, matching=f"^(PUT|POST) .*{path}", times=1000))
        yield Location(place.credentials, block_of(bucket, *bucket.limited_keys, f"http://127.0.0.1:{proxy.port}"))


async def test_the_next_run_joins_shots_that_could_not_be_joined(story, place, bucket, loova):
    story.write_text(TWO)
    with (
        refusing(place, bucket, "_storyboards") as refused,
        pytest.raises(BatchError, match="All shots are paid for and in the bucket") as caught,
    ):
        await make(story, refused)
    assert caught.value.credits_spent == "yes"
    assert caught.value.report.count("saved") == 2

    report = await make(story, place)
    assert report.shots.count("reused") == 2
    assert seconds_of(loaded(bucket, report.film)) == pytest.approx(8, abs=1 / 24)
    assert loova.ledger["totals"]["billed"] == 2


async def test_a_film_does_not_need_its_pictures(story, place, bucket):
    story.write_text(TWO)
    with refusing(place, bucket, "_storyboards.*sheet") as refused:
        report = await make(story, refused)
    assert loaded(bucket, report.film)
    assert report.contact_sheet is None


FILM = """
duration: 4
transition: cross-fade
transition_seconds: 0.5
title_card: title.png
end_card: s3://BUCKET/cards/end.jpg
card_seconds: 1
sound_track: harbour.wav
loudness: -18
shots:
  - {prompt: the boat, transition: cut}
  - {prompt: the shore}
"""


@pytest.fixture
def with_film(story: Path, bucket) -> Path:
    """The story of two shots, with cards and a sound track."""
    Image.new("RGB", (640, 360), (255, 255, 255)).save(story.parent / "title.png")
    black = io.BytesIO()
    Image.new("RGB", (640, 360)).save(black, "JPEG")
    bucket.client.put_object(Bucket=bucket, Key="loova/cards/end.jpg", Body=black.getvalue())
    sound_track(story.parent / "harbour.wav", 440)
    story.write_text(FILM.replace("BUCKET/", f"{bucket}/loova/"))
    return story


def sound_track(path: Path, hertz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(array("h", [round(9000 * sin(n * hertz * 6.2832 / 8000)) for n in range(16_000)]).tobytes())


async def test_a_film_has_its_cards_fades_and_sound(with_film, place, bucket, loova):
    dry = await make(with_film, place, dry_run=True)
    assert dry.shots.count("not_started") == 2
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket, Prefix="loova/_media/")

    report = await make(with_film, place)
    assert report.is_copy is False
    assert report.duration_seconds == pytest.approx(1 + 4 + 4 + 1 - 2 * 0.5, abs=0.05)
    film = loaded(bucket, report.film)
    with av.open(io.BytesIO(film)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
        assert len(container.streams.audio) == 1
    assert ImageStat.Stat(frames[0]).mean == pytest.approx([255] * 3, abs=3)
    assert ImageStat.Stat(frames[-1]).mean == pytest.approx([0] * 3, abs=3)

    again = await make(with_film, place)
    assert (again.film, again.sha256) == (report.film, report.sha256)

    sound_track(with_film.parent / "harbour.wav", 660)
    other = await make(with_film, place)
    assert other.film != report.film
    assert other.shots.count("reused") == 2
    with_film.write_text(TWO)
    plain = await make(with_film, place)
    assert plain.is_copy
    assert len({plain.film, other.film, report.film}) == 3
    assert loova.ledger["totals"]["posted"] == 2


async def test_the_media_of_a_film_are_checked_together_before_anything_is_spent(with_film, place, bucket, loova):
    folder, text = with_film.parent, with_film.read_text()
    (folder / "harbour.wav").write_bytes(b"<html>")
    (folder / "title.png").write_bytes((folder / "title.png").read_bytes()[:60])
    with_film.write_text(text.replace("cards/end.jpg", "cards/gone.jpg"))
    with pytest.raises(InvalidRequestError) as refused:
        await make(with_film, place)
    told = str(refused.value).splitlines()
    assert told[0].startswith("title_card: 'title.png' was given: it is cut short")
    assert told[1].startswith(f"end_card: 's3://{bucket}/loova/cards/gone.jpg' was given: there is no such object")
    assert told[2].startswith("sound_track: 'harbour.wav' was given: its content is of no known type: must be mp3, wav")
    assert len(told) == 3
    assert loova.ledger["totals"]["posted"] == 0


async def test_the_media_of_a_film_are_only_those_local_files_that_a_story_may_read(with_film, place, bucket, loova):
    outside = with_film.parent / "stories"
    outside.mkdir()
    path = outside / "harbour.yaml"
    path.write_text(with_film.read_text().replace("title.png", "../title.png"))
    with pytest.raises(InvalidRequestError, match=r"title_card: '../title.png' was given: it lies outside of"):
        await make(path, place, media_folder=str(outside))
    bucket.client.put_object(Bucket=bucket, Key="loova/harbour.yaml", Body=path.read_bytes())
    with pytest.raises(InvalidRequestError, match=r"sound_track: .* what comes from S3 may not read local files"):
        await generate_storyboard(f"s3://{bucket}/loova/harbour.yaml", place.credentials, place.bucket)
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_cross_fade_must_fit_into_a_kept_shot(story, place, loova):
    story.write_text(TWO)
    key = (await make(story, place)).shots.videos[1].key
    fades = "transition: cross-fade, transition_seconds: 3, shots:"
    story.write_text(f"{{{fades} [{{prompt: the boat, duration: 8}}, {{keep: {key}}}, {{prompt: c, duration: 8}}]}}")
    with pytest.raises(InvalidRequestError, match=r"shot 2: transition_seconds: 3 s at its begin and 3 s at its end"):
        await make(story, place)
    assert loova.ledger["totals"]["posted"] == 2


async def test_the_next_run_makes_a_film_that_could_not_be_made(with_film, place, bucket, loova):
    with (
        refusing(place, bucket, "_storyboards") as refused,
        pytest.raises(BatchError, match="All shots are paid for and in the bucket"),
    ):
        await make(with_film, refused)
    report = await make(with_film, place)
    assert report.shots.count("reused") == 2
    assert report.duration_seconds == pytest.approx(9, abs=0.05)
    assert loova.ledger["totals"]["billed"] == 2


async def test_problems_of_media_are_reported_by_shot_before_anything_is_spent(story, place, loova):
    story.write_text(STORY.replace("continue: true}", "continue: true, image_urls: [no.png]}", 1))
    with pytest.raises(InvalidRequestError, match=r"shot 2: image_urls.0: 'no.png' was given: there is no such file"):
        await make(story, place)
    assert loova.ledger["totals"]["posted"] == 0
