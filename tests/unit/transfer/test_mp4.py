"""The check of the mp4 structure, on whole files and on parts of them."""

import contextlib
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova.errors import IncompleteVideoError
from prefect_loova.transfer import mp4
from prefect_loova.transfer.mp4 import Mp4Check, Mp4Facts
from prefect_loova.transfer.mp4_index import compact_sizes
from tests.support.video_host import rendered

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
    """Type, start and end of each top-level box."""
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
    """The same video with a box of the index renamed, so that readers skip it."""
    assert kind in video
    return video.replace(kind, b"gone")


@each_layout
def test_a_whole_video_passes_with_the_facts_of_its_index(movflags: str) -> None:
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
        with pytest.raises(IncompleteVideoError, match="not a whole mp4"):
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
        except IncompleteVideoError as error:
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
            with pytest.raises(IncompleteVideoError):
                check(bytes(broken))
                pytest.fail(f"bit {bit} of the size of {kind!r} at byte {begin}")


@each_layout
@given(noise=st.binary(min_size=1, max_size=40))
def test_noise_after_the_last_box_is_refused(movflags: str, noise: bytes) -> None:
    with pytest.raises(IncompleteVideoError):
        check(rendered(movflags), noise)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html><body>Sorry</body></html>", "does not start like an mp4"),
        (b'{"code": 403, "message": "expired"}', "does not start like an mp4"),
        (b"\0" * 100, "no mp4 box at byte 0"),
        (box(b"ftyp", b"isom\0\0\2\0"), "no moov box .* byte 16"),
        (without(rendered(), b"moov"), "no moov box"),
        (without(rendered(), b"mdat"), "no media data"),
        (without(rendered("frag_keyframe+empty_moov"), b"mdat"), "no media data|has no media data"),
        (without(rendered("frag_keyframe+empty_moov"), b"moof"), "no media of the video track"),
        (without(rendered("frag_keyframe+empty_moov"), b"moov"), "that no moov box announces"),
        (without(rendered("frag_keyframe+empty_moov"), b"mfra"), "nothing shows that byte"),
        (without(rendered(), b"ftyp"), "does not start like an mp4"),
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
    with pytest.raises(IncompleteVideoError, match=message) as caught:
        check(content)
    assert caught.value.credits_spent == "yes"


def test_media_that_the_index_points_to_must_be_in_the_media_data() -> None:
    video = rendered("faststart")
    moved = video.replace(b"stco", b"stco", 1)
    at = moved.index(b"stco") + 12
    (first,) = struct.unpack_from(">I", moved, at)
    for wrong in (0, first - 100_000 & 0xFFFFFFFF, len(video), len(video) - 1):
        broken = moved[:at] + struct.pack(">I", wrong) + moved[at + 4 :]
        with pytest.raises(IncompleteVideoError, match="is not in the file"):
            check(broken)


def test_a_64_bit_size_and_media_up_to_the_end_are_whole_and_their_prefixes_are_not() -> None:
    fast = rendered("faststart")
    (_, begin, end) = boxes(fast)[-1]
    media = fast[begin + 8 : end]
    # The `free` box before the media data makes room, so that no offset in the index changes.
    before = fast[: boxes(fast)[-2][1]]
    assert boxes(fast)[-2][0] == b"free" and boxes(fast)[-2][2] - boxes(fast)[-2][1] == 8
    wide = before + struct.pack(">I4sQ", 1, b"mdat", 16 + len(media)) + media
    endless = fast[:begin] + struct.pack(">I4s", 0, b"mdat") + media
    for video in (wide, endless):
        assert check(video).duration_seconds == pytest.approx(1.0)
        for length in range(len(video) - 300, len(video)):
            with pytest.raises(IncompleteVideoError):
                check(video[:length])
        with pytest.raises(IncompleteVideoError):
            check(video[: begin + 4])


def test_padding_before_the_ftyp_box_and_unknown_boxes_are_accepted() -> None:
    tail = rendered() + box(b"uuid", b"x" * 20) + box(b"\xa9xyz", b"y") + box(b"free")
    assert check(tail).width == 320
    fragments = rendered("frag_keyframe+empty_moov")
    assert check(box(b"free", b"room") + fragments).fragmented


def test_fragments_without_an_index_are_whole_if_the_length_is_known() -> None:
    cut = without(rendered("frag_keyframe+empty_moov"), b"mfra")
    assert check(cut, length_is_known=True).fragmented


FRAGMENTED = ("frag_keyframe+empty_moov", "frag_keyframe", "cmaf+frag_every_frame", "dash+frag_keyframe+global_sidx")


@pytest.mark.parametrize("movflags", FRAGMENTED)
@pytest.mark.parametrize("kept", ["1 byte", "half", "all but 1 byte"])
def test_a_fragment_with_less_media_than_its_samples_have_is_refused(movflags: str, kept: str) -> None:
    video = without(rendered(movflags), b"mfra")
    (kind, begin, end) = boxes(video)[-1]
    assert kind == b"mdat" and check(video, length_is_known=True)
    size = {"1 byte": 1, "half": (end - begin - 8) // 2, "all but 1 byte": end - begin - 9}[kept]
    short = video[:begin] + box(b"mdat", video[begin + 8 : begin + 8 + size])
    endless = video[:begin] + struct.pack(">I4s", 0, b"mdat") + video[begin + 8 : begin + 8 + size]
    for broken in (short, endless):
        with pytest.raises(IncompleteVideoError, match="is not in the file"):
            check(broken, length_is_known=True)


def a_fragment(*, flags: int, tfhd: bytes, runs: list[bytes]) -> bytes:
    """A `moof` box of the video track."""
    header = box(b"tfhd", struct.pack(">II", flags, 1) + tfhd)
    return box(b"moof", box(b"traf", header + b"".join(box(b"trun", run) for run in runs)))


WAYS: dict[str, tuple[int, bytes, list[bytes]]] = {
    "sizes of each sample": (0x20000, b"", [struct.pack(">IIiII", 0x201, 2, 0, 60, 40)]),
    "durations and sizes": (0x20000, b"", [struct.pack(">IIiIIII", 0x301, 2, 0, 1, 60, 1, 40)]),
    "all fields": (0x20000, b"", [struct.pack(">IIiIIIIIIIII", 0xF05, 2, 0, 7, 1, 60, 0, 0, 1, 40, 0, 0)]),
    "one size for all": (0x20010, struct.pack(">I", 50), [struct.pack(">IIi", 0x1, 2, 0)]),
    "a duration and a size for all": (0x20018, struct.pack(">II", 1, 50), [struct.pack(">IIi", 0x1, 2, 0)]),
    "two runs, the second behind the first": (
        0x20010,
        struct.pack(">I", 50),
        [struct.pack(">IIi", 0x1, 1, 0), struct.pack(">II", 0, 1)],
    ),
    "an offset in the file": (0x11, struct.pack(">QI", 0, 50), [struct.pack(">II", 0, 2)]),
    "no offset at all": (0x10, struct.pack(">I", 50), [struct.pack(">II", 0, 2)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_samples_of_a_fragment_are_found_for_each_kind_of_offset(way: str) -> None:
    flags, tfhd, runs = WAYS[way]
    before = without(rendered("frag_keyframe+empty_moov"), b"mfra")
    length = len(a_fragment(flags=flags, tfhd=tfhd, runs=runs))
    if flags & 0x1:
        tfhd = struct.pack(">Q", len(before) + length + 8) + tfhd[8:]
    elif struct.unpack(">I", runs[0][:4])[0] & 0x1:
        runs = [runs[0][:8] + struct.pack(">i", length + 8) + runs[0][12:], *runs[1:]]
    fragment = a_fragment(flags=flags, tfhd=tfhd, runs=runs)
    assert check(before, fragment, box(b"mdat", bytes(100)), length_is_known=True).fragmented
    for size in (1, 50, 99):
        with pytest.raises(IncompleteVideoError, match="is not in the file"):
            check(before, fragment, box(b"mdat", bytes(size)), length_is_known=True)


def test_a_file_with_compact_sample_sizes_that_is_cut_in_its_media_is_refused() -> None:
    fast = rendered("faststart")
    (_, begin, _) = boxes(fast)[-1]
    compact, at = fast, 0
    while (at := compact.find(b"stsz", at + 1)) > 0 and at < begin:
        constant, count = struct.unpack_from(">II", compact, at + 8)
        sizes = struct.unpack_from(f">{count}I", compact, at + 16)
        assert not constant and max(sizes) < 2**16 and count >= 4
        small = struct.pack(f">II{count}H", 16, count, *sizes)
        stz2 = box(b"stz2", bytes(4) + small) + box(b"free", bytes(2 * count - 8))
        compact = compact[: at - 4] + stz2 + compact[at - 4 + len(stz2) :]
    assert len(compact) == len(fast) and b"stz2" in compact
    endless = compact[:begin] + struct.pack(">I", 0) + compact[begin + 4 :]
    assert check(endless) == check(fast)
    for length in (len(endless) - 1, len(endless) - 500, begin + 100):
        with pytest.raises(IncompleteVideoError, match="is not in the file"):
            check(endless[:length])


@pytest.mark.parametrize(
    ("bits", "entries", "sizes"),
    [
        (4, bytes([0x12, 0x3F, 0x40]), [1, 2, 3, 15, 4]),
        (8, bytes([1, 2, 3, 255, 4]), [1, 2, 3, 255, 4]),
        (16, struct.pack(">5H", 1, 2, 3, 65535, 4), [1, 2, 3, 65535, 4]),
    ],
)
def test_sizes_of_each_width_are_read(bits: int, entries: bytes, sizes: list[int]) -> None:
    assert list(compact_sizes(memoryview(struct.pack(">III", 0, bits, 5) + entries))) == sizes
    with pytest.raises(ValueError, match="cut short"):
        compact_sizes(memoryview(struct.pack(">III", 0, bits, 5) + entries[:-1]))


def test_the_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "MAX_INDEX", 100)
    with pytest.raises(IncompleteVideoError, match="larger than 100 bytes"):
        check(rendered())
    endless = rendered("faststart")
    endless = endless[:32] + b"\0\0\0\0" + endless[36:]
    with pytest.raises(IncompleteVideoError, match="larger than 100 bytes"):
        check(endless)


def test_the_number_of_boxes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "MAX_BOXES", 20)
    with pytest.raises(IncompleteVideoError, match="more than 20 boxes"):
        check(rendered(), box(b"free") * 20)


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_the_one_error(noise: bytes) -> None:
    with pytest.raises(IncompleteVideoError):
        check(noise)


@each_layout
@given(data=st.data())
def test_a_damaged_index_raises_only_the_one_error(movflags: str, data: st.DataObject) -> None:
    video = bytearray(rendered(movflags))
    index = [span for kind, *span in boxes(bytes(video)) if kind in (b"moov", b"moof")]
    begin, end = data.draw(st.sampled_from(index))
    for _ in range(data.draw(st.integers(1, 6))):
        video[data.draw(st.integers(begin, end - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IncompleteVideoError):
        check(bytes(video))
