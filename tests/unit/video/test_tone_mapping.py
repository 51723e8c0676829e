"""Pictures of HDR videos: reference white is white, black is black, colours keep their hue, and SDR is unchanged."""

from __future__ import annotations

import colorsys
import io
import math
import struct
from typing import Any

import av
import pytest
from PIL import Image

from prefect_loova.video.concat import join_videos
from prefect_loova.video.frames import frame_of
from prefect_loova.video.thumbnails import make_previews
from prefect_loova.video.tone_mapping import sdr
from tests.support import films
from tests.support.films import film, moving_frames, opened

# In one process: a colour table takes 2 s of processor time, and is kept for the next frame of its kind.
pytestmark = pytest.mark.xdist_group("tones")

PQ, HLG, BT2020 = 16, 18, 9
WHITE = 203.0  # cd/m2: reference white, ITU-R BT.2408
PRIMARIES = ((0.6274, 0.3293, 0.0433), (0.0691, 0.9195, 0.0114), (0.0164, 0.0880, 0.8956))  # BT.709 in BT.2020
X265 = {"x265-params": "log-level=none:pools=none:frame-threads=1"}

Colour = tuple[float, float, float]


def pq(light: float) -> float:
    """SMPTE ST 2084, from cd/m2."""
    y = (light / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def hlg(scene: float) -> float:
    """ARIB STD-B67, from the light of a scene."""
    return math.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * math.log(12 * scene - 0.28466892) + 0.55991073


def coded(transfer: int, colour: Colour, *, full: bool = False) -> tuple[int, int, int]:
    """10-bit Y, U and V in BT.2020 of a colour that is given as light in BT.709. Reference white is 1."""
    black, luma_range, chroma_range = (0, 1023, 1023) if full else (64, 876, 896)
    light = [sum(part * one for part, one in zip(row, colour, strict=True)) * WHITE for row in PRIMARIES]
    if transfer == PQ:
        red, green, blue = (pq(one) for one in light)
    else:
        shown = [one / 1000 for one in light]
        luminance = 0.2627 * shown[0] + 0.678 * shown[1] + 0.0593 * shown[2]
        red, green, blue = (hlg(one * luminance ** (1 / 1.2 - 1)) if luminance else 0.0 for one in shown)
    luma = 0.2627 * red + 0.678 * green + 0.0593 * blue
    return (
        round(black + luma_range * luma),
        round(512 + chroma_range * (blue - luma) / 1.8814),
        round(512 + chroma_range * (red - luma) / 1.4746),
    )


def hdr(transfer: int, *colours: Colour, codec: str = "libx264", tagged: bool = True, **options: Any) -> bytes:
    """A video with a patch of each colour, side by side."""
    full = options.get("color_range") == "pc"
    patches = [coded(transfer, colour, full=full) for colour in colours]
    tags: dict[str, Any] = {"colorspace": BT2020, "primaries": BT2020} if tagged else {}
    made = {"pix_fmt": "yuv420p10le", "codec": codec, "transfer": transfer, "size": (384, 48)}

    def paint(frame: av.VideoFrame, number: int) -> None:
        for index, plane in enumerate(frame.planes):
            row = b"".join(
                struct.pack("<H", patch[index])
                * (plane.width * (at + 1) // len(patches) - plane.width * at // len(patches))
                for at, patch in enumerate(patches)
            )
            plane.update(row.ljust(plane.line_size, b"\0") * plane.height)

    return film(3, paint=paint, **made | tags | options)


def patch(picture: Image.Image, number: int = 0, of: int = 1) -> tuple[int, ...]:
    """The colour in the middle of a patch."""
    found = picture.convert("RGB").getpixel((picture.width * (2 * number + 1) // (2 * of), picture.height // 2))
    assert isinstance(found, tuple)
    return found


def first_frame(transfer: int, *colours: Colour, **options: Any) -> list[tuple[int, ...]]:
    """The patches of a video's first frame."""
    picture = opened(frame_of(io.BytesIO(hdr(transfer, *colours, **options)), "first", max_seconds=600))
    return [patch(picture, number, len(colours)) for number in range(len(colours))]


def pictures(video: bytes) -> dict[str, Image.Image]:
    """All pictures of a video."""
    made = make_previews(io.BytesIO(video))
    sheet = opened(made.contact_sheet)
    return {
        "poster": opened(made.poster),
        "thumbnail": opened(made.thumbnail),
        "sheet": sheet.crop((0, 0, sheet.width // 2, sheet.height // 2)),
        "moving": moving_frames(made.moving)[0],
        "first frame": opened(frame_of(io.BytesIO(video), "first")),
        "last frame": opened(frame_of(io.BytesIO(video), "last")),
    }


@pytest.fixture(params=[PQ, HLG], ids=["pq", "hlg"], scope="module")
def transfer(request: pytest.FixtureRequest) -> int:
    """One test for all videos of one size: a new colour table takes seconds."""
    number: int = request.param
    first_frame(number, (1, 1, 1))
    return number


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {}), ("libx265", X265), ("libsvtav1", {"preset": "10", "svtav1-params": "lp=1"})],
    ids=["h264", "hevc", "av1"],
)
def test_reference_white_is_white_in_every_picture_and_black_is_black(
    transfer: int, codec: str, options: dict[str, str]
) -> None:
    film_ = hdr(transfer, (1, 1, 1), (0, 0, 0), codec=codec, **options)
    for name, picture in pictures(film_).items():
        white, black = patch(picture, 0, 2), patch(picture, 1, 2)
        assert min(white) >= 250, name
        assert max(black) <= 2, name


def test_tones_darker_than_white_match_an_sdr_video(transfer: int) -> None:
    greys = [(light, light, light) for light in (0.02, 0.05, 0.18, 0.5, 0.8)]
    colours = [(0.6, 0.35, 0.25), (0.5, 0.1, 0.1), (0.1, 0.4, 0.1), (0.1, 0.1, 0.5), (0.5, 0.5, 0.1), (0.2, 0.3, 0.2)]
    for off, meant in ((3, greys), (13, colours)):
        for colour, shown in zip(meant, first_frame(transfer, *meant), strict=True):
            assert shown == pytest.approx([255 * light ** (1 / 2.4) for light in colour], abs=off), colour


def test_tones_brighter_than_white_keep_their_hue(transfer: int) -> None:
    bright = [(4, 1.2, 0.4), (0.4, 3, 0.4), (0.4, 0.6, 4), (3, 3, 0.3)]
    for colour, shown in zip(bright, first_frame(transfer, *bright), strict=True):
        assert max(shown) >= 220, colour
        hue, saturation, _ = colorsys.rgb_to_hsv(*shown)
        meant = colorsys.rgb_to_hsv(*(light ** (1 / 2.4) for light in colour))[0]
        assert saturation > 0.1, colour
        assert min(abs(hue - meant), 1 - abs(hue - meant)) < 0.08, colour


@pytest.mark.parametrize(
    "options",
    [{"rotated": 90}, {"color_range": "pc"}, {"pix_fmt": "yuv444p10le"}],
    ids=["turned", "full range", "4:4:4"],
)
def test_white_is_white_in_every_kind_of_hdr_video(options: dict[str, Any]) -> None:
    assert min(first_frame(HLG, (1, 1, 1), **options)[0]) >= 250


def test_unspecified_colour_properties_are_bt2020(transfer: int) -> None:
    colours = [(0.6, 0.35, 0.25), (0.5, 0.1, 0.1), (0.1, 0.4, 0.1), (0.1, 0.1, 0.5)]
    said, not_said = (first_frame(transfer, *colours, tagged=tagged) for tagged in (True, False))
    for one, other in zip(said, not_said, strict=True):
        assert other == pytest.approx(one, abs=2)


def test_hdr_becomes_sdr_in_an_encoded_join(transfer: int) -> None:
    out = io.BytesIO()
    sdr_film = film(6, (64, 48), paint=lambda frame, _: films.fill(frame, (235, 128, 128)))
    joined = join_videos([io.BytesIO(sdr_film), io.BytesIO(hdr(transfer, (1, 1, 1)))], out)
    assert not joined.is_copy
    for frame in (opened(frame_of(io.BytesIO(out.getvalue()), "first")), opened(frame_of(out, "last"))):
        assert min(patch(frame)) >= 250


def test_the_same_video_gives_the_same_bytes(transfer: int) -> None:
    video = hdr(transfer, (0.1, 0.4, 0.1), (2, 1, 0.5), (0.9, 0.9, 0.9))
    assert frame_of(io.BytesIO(video), "last") == frame_of(io.BytesIO(video), "last")
    assert make_previews(io.BytesIO(video)) == make_previews(io.BytesIO(video))


@pytest.mark.parametrize("other", [None, 1, 6, 13, 14, 15])
def test_an_sdr_frame_is_unchanged(other: int | None) -> None:
    video = film(2, transfer=other, primaries=BT2020, colorspace=BT2020)
    with av.open(io.BytesIO(video)) as container:
        for frame in container.decode(video=0):
            assert sdr(frame) is frame
