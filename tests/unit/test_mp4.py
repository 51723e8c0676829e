"""The check of the mp4 structure, on real files and on what is left of them."""

import contextlib
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova import mp4
from prefect_loova.errors import NotWholeVideoError
from prefect_loova.mp4 import Mp4Check, Mp4Facts
from tests.video_host import rendered

LAYOUTS = {
    "index first": "faststart",
    "index last": "",
    "fragments": "frag_keyframe+empty_moov",
    "fragments after an index": "frag_keyframe",
    "a fragment for each frame": "cmaf+frag_every_frame",
    "dash": "dash+frag_keyframe+global_sidx",
}

each_layout = pytest.mark.parametrize("movflags", LAYOUTS.values(), ids=LAYOUTS.keys())


def check(*chunks: bytes, length_is_known: bool = False) -> Mp4Facts:
    walk = Mp4Check()
    for chunk in chunks:
        walk.feed(chunk)
    return walk.finish(length_is_known=length_is_known)


def boxes(video: bytes) -> list[tuple[bytes, int, int]]:
    """Type, begin and end of each box at the top level."""
    found, at = [], 0
    while at < len(video):
        size, kind = struct.unpack_from(">I4s", video, at)
        found.append((kind, at, at + size))
        at += size
    return found


def box(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def without(video: bytes, kind: bytes) -> bytes:
    return b"".join(video[begin:end] for name, begin, end in boxes(video) if name != kind)


def without_inner(video: bytes, kind: bytes) -> bytes:
    """The same video with a box inside the index made unknown to readers."""
    assert kind in video
    return video.replace(kind, b"gone")


@each_layout
def test_a_whole_video_passes_with_what_its_index_says(movflags: str) -> None:
    facts = check(rendered(movflags))
    assert (facts.width, facts.height) == (320, 180)
    assert facts.duration_seconds == pytest.approx(1.0, abs=0.05)
    assert facts.size_bytes == len(rendered(movflags))
    assert facts.fragmented == (movflags in ("frag_keyframe+empty_moov", "cmaf+frag_every_frame", LAYOUTS["dash"]))


@each_layout
def test_every_strict_prefix_is_refused(movflags: str) -> None:
    video = rendered(movflags)
    edges = {edge + near for _, begin, end in boxes(video) for edge in (begin, end) for near in range(-9, 10)}
    sampled = random.Random(movflags).sample(range(len(video)), min(len(video), 3000))
    for length in sorted({*edges, *sampled, *range(64)} & set(range(len(video)))):
        with pytest.raises(NotWholeVideoError, match="not a whole mp4"):
            check(video[:length])


@each_layout
@given(data=st.data())
def test_the_result_does_not_depend_on_the_chunks(movflags: str, data: st.DataObject) -> None:
    video = rendered(movflags)
    length = data.draw(st.sampled_from([len(video), len(video) - 1, boxes(video)[-1][1] + 4, 5000]))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, length), max_size=40))), length]
    chunks = [video[:length][begin:end] for begin, end in pairwise(cuts)]

    def outcome(*parts: bytes) -> object:
        try:
            return check(*parts)
        except NotWholeVideoError as error:
            return str(error)

    assert outcome(*chunks) == outcome(video[:length])


@each_layout
def test_single_bytes_make_no_difference(movflags: str) -> None:
    video = rendered(movflags)
    assert check(*(video[at : at + 1] for at in range(len(video)))) == check(video)


@each_layout
def test_a_flipped_bit_in_the_size_of_any_box_is_refused(movflags: str) -> None:
    video = rendered(movflags)
    room = {end for kind, _, end in boxes(video) if kind == b"free"}
    for kind, begin, _ in boxes(video):
        for bit in range(32):
            broken = bytearray(video)
            broken[begin + bit // 8] ^= 0x80 >> bit % 8
            if begin + struct.unpack_from(">I", broken, begin)[0] in room:
                continue  # It only swallows the empty room behind it, so nothing is lost.
            with pytest.raises(NotWholeVideoError):
                check(bytes(broken))
                pytest.fail(f"bit {bit} of the size of {kind!r} at byte {begin}")


@each_layout
@given(noise=st.binary(min_size=1, max_size=40))
def test_noise_behind_the_last_box_is_refused(movflags: str, noise: bytes) -> None:
    with pytest.raises(NotWholeVideoError):
        check(rendered(movflags), noise)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html><body>Sorry</body></html>", "does not begin as an mp4"),
        (b'{"code": 403, "message": "expired"}', "does not begin as an mp4"),
        (b"\0" * 100, "no mp4 box at byte 0"),
        (box(b"ftyp", b"isom\0\0\2\0"), "no moov box .* byte 16"),
        (without(rendered(), b"moov"), "no moov box"),
        (without(rendered(), b"mdat"), "no media data"),
        (without(rendered("frag_keyframe+empty_moov"), b"mdat"), "no media data|has no media data"),
        (without(rendered("frag_keyframe+empty_moov"), b"moof"), "no media of the video track"),
        (without(rendered("frag_keyframe+empty_moov"), b"moov"), "that no moov box announces"),
        (without(rendered("frag_keyframe+empty_moov"), b"mfra"), "nothing shows that byte"),
        (without(rendered(), b"ftyp"), "does not begin as an mp4"),
        (without_inner(rendered(), b"vide"), "no video track"),
        (without_inner(rendered(), b"stsz"), "no stsz box"),
        (without_inner(rendered(), b"mvhd"), "no mvhd box"),
        (rendered() + rendered()[boxes(rendered())[-1][1] :], "a second moov box"),
        (box(b"ftyp") + struct.pack(">I4s", 7, b"free"), "impossible size 7"),
        (box(b"ftyp") + struct.pack(">I4sQ", 1, b"mdat", 15), "impossible size 15"),
        (box(b"ftyp") + struct.pack(">I4s", 2**31, b"moov"), "larger than"),
    ],
)
def test_the_error_says_what_is_missing(content: bytes, message: str) -> None:
    with pytest.raises(NotWholeVideoError, match=message) as caught:
        check(content)
    assert caught.value.credits_spent == "yes"


def test_media_that_the_index_points_to_must_be_in_the_media_data() -> None:
    video = rendered("faststart")
    moved = video.replace(b"stco", b"stco", 1)
    at = moved.index(b"stco") + 12
    (first,) = struct.unpack_from(">I", moved, at)
    for wrong in (0, first - 100_000 & 0xFFFFFFFF, len(video), len(video) - 1):
        broken = moved[:at] + struct.pack(">I", wrong) + moved[at + 4 :]
        with pytest.raises(NotWholeVideoError, match="is not in the file"):
            check(broken)


def test_a_size_of_64_bits_and_media_that_lasts_to_the_end_are_whole_and_their_prefixes_are_not() -> None:
    fast = rendered("faststart")
    (_, begin, end) = boxes(fast)[-1]
    media = fast[begin + 8 : end]
    # The `free` box before the media data gives the room, so that no offset in the index moves.
    before = fast[: boxes(fast)[-2][1]]
    assert boxes(fast)[-2][0] == b"free" and boxes(fast)[-2][2] - boxes(fast)[-2][1] == 8
    wide = before + struct.pack(">I4sQ", 1, b"mdat", 16 + len(media)) + media
    endless = fast[:begin] + struct.pack(">I4s", 0, b"mdat") + media
    for video in (wide, endless):
        assert check(video).duration_seconds == pytest.approx(1.0)
        for length in range(len(video) - 300, len(video)):
            with pytest.raises(NotWholeVideoError):
                check(video[:length])
        with pytest.raises(NotWholeVideoError):
            check(video[: begin + 4])


def test_room_in_front_of_the_ftyp_box_and_unknown_boxes_are_tolerated() -> None:
    tail = rendered() + box(b"uuid", b"x" * 20) + box(b"\xa9xyz", b"y") + box(b"free")
    assert check(tail).width == 320
    fragments = rendered("frag_keyframe+empty_moov")
    assert check(box(b"free", b"room") + fragments).fragmented


def test_fragments_without_their_own_index_are_whole_where_the_length_is_known() -> None:
    cut = without(rendered("frag_keyframe+empty_moov"), b"mfra")
    assert check(cut, length_is_known=True).fragmented


def test_the_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "MAX_INDEX", 100)
    with pytest.raises(NotWholeVideoError, match="larger than 100 bytes"):
        check(rendered())
    endless = rendered("faststart")
    endless = endless[:32] + b"\0\0\0\0" + endless[36:]
    with pytest.raises(NotWholeVideoError, match="larger than 100 bytes"):
        check(endless)


def test_the_number_of_boxes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "MAX_BOXES", 20)
    with pytest.raises(NotWholeVideoError, match="more than 20 boxes"):
        check(rendered(), box(b"free") * 20)


@given(st.binary(max_size=300))
def test_nothing_but_the_one_error_is_raised_for_any_bytes(noise: bytes) -> None:
    with pytest.raises(NotWholeVideoError):
        check(noise)


@each_layout
@given(data=st.data())
def test_nothing_but_the_one_error_is_raised_for_a_damaged_index(movflags: str, data: st.DataObject) -> None:
    video = bytearray(rendered(movflags))
    index = [span for kind, *span in boxes(bytes(video)) if kind in (b"moov", b"moof")]
    begin, end = data.draw(st.sampled_from(index))
    for _ in range(data.draw(st.integers(1, 6))):
        video[data.draw(st.integers(begin, end - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotWholeVideoError):
        check(bytes(video))
