"""What a file of a brand is taken for by its first bytes, as all that is seen of a URL: each brand in a real header."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_loova.models.media_types import EXTENSIONS, MediaRules, content_problem, media_type_of, unknown_brand

BRANDS = """
image/heic          heic heix heim heis hevc hevx hevm hevs MiHA MiHB MiHE
image/heif          mif1 mif2 msf1 miaf MiPr 1pic
image/avif          avif avis avio MA1A MA1B
image/avci          avci avcs MiAB
image/vvic          vvic vvis
image/jpeg-in-heif  jpeg jpgs
image/jp2           jp2_ jpx_ jpm_ j2ki
image/jxl           jxl_
image/x-canon-cr3   crx_
audio/mp4           M4A_ M4B_ M4P_ F4A_ NDAS caac iamf
video/3gpp          3gp4 3gp5 3gp6 3gp7 3gp9 3gr6 3gs6 3ge6 3gg6 3gt8
video/3gpp2         3g2a 3g2b 3g2c KDDI
video/mj2           mj2s mjp2
video/quicktime     qt__ mqt_
video/mp4           isom iso2 iso4 iso5 iso6 iso9 isoc mp41 mp42 avc1 av01 M4V_ M4VH M4VP F4V_ f4v_ dash cmfc
video/mp4           MSNV XAVC XFVC CAEP niko pana NDSC NDXM mmp4 piff ifrm yt4_ clg1 chd1
None                mp21 mp71 MPPI unif odcf risx none zzzz
"""
TABLE = [(brand.replace("_", " "), line.split()[0]) for line in BRANDS.split("\n") for brand in line.split()[1:]]

COMPATIBLE = [
    ("mif1", ["mif1", "heic", "hevc"], "image/heic"),
    ("mif1", ["mif1", "avif", "miaf", "MA1B"], "image/avif"),
    ("msf1", ["msf1", "hevc", "iso8"], "image/heic"),
    ("zzzz", ["isom", "mp42"], "video/mp4"),
    ("zzzz", ["mp42", "heic"], "image/heic"),
    ("zzzz", ["M4A ", "mp42"], "audio/mp4"),
    ("zzzz", ["qt  "], "video/quicktime"),
    ("isom", ["heic"], "video/mp4"),
    ("3gp4", ["isom", "3gp4"], "video/3gpp"),
    ("zzzz", ["yyyy"], "None"),
]


def header(major: str, *compatible: str) -> bytes:
    """The first bytes of a file of a brand: its `ftyp` box, and the next one."""
    brands = b"".join(brand.encode() for brand in compatible or [major])
    return (16 + len(brands)).to_bytes(4) + b"ftyp" + major.encode() + bytes(4) + brands + b"\0\0\1\x2dmeta" + bytes(40)


@pytest.mark.parametrize(("brand", "media_type"), TABLE)
def test_a_brand_gives_the_media_type_or_is_unknown(brand: str, media_type: str) -> None:
    assert str(media_type_of(header(brand))) == media_type


@pytest.mark.parametrize(("brand", "media_type"), TABLE)
def test_only_brands_of_mp4_and_mov_are_videos_and_an_unknown_brand_is_a_doubt(brand: str, media_type: str) -> None:
    head = header(brand)
    rules, is_unknown = MediaRules(), media_type == "None"
    is_video = is_unknown or media_type in EXTENSIONS
    assert (content_problem(head, 1000, "video", rules) is None) == is_video
    for kind in ("image", "audio"):
        any_kind: Any = kind
        assert content_problem(head, 1000, any_kind, rules)
        assert unknown_brand(head, any_kind) == ""
    assert bool(unknown_brand(head, "video")) == is_unknown


@pytest.mark.parametrize(("major", "compatible", "media_type"), COMPATIBLE)
def test_compatible_brands_decide_if_the_major_brand_is_unknown(
    major: str, compatible: list[str], media_type: str
) -> None:
    assert str(media_type_of(header(major, *compatible))) == media_type


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"RF64\xff\xff\xff\xffWAVEds64", "audio/wav"),
        (b"BW64\xff\xff\xff\xffWAVEds64", "audio/wav"),
        (b"RIFF\x24\x60\x09\0WAVEfmt ", "audio/wav"),
        (b"FORM\0\0\x10\0AIFFCOMM", "audio/aiff"),
        (b"caff\0\1\0\0desc", "audio/x-caf"),
        (b"#!AMR\n<", "audio/amr"),
        (bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d"), "video/webm"),
        (bytes.fromhex("1a45dfa3a3428681014286810142f7810142f281044282886d6174726f736b61"), "video/x-matroska"),
        (b"FLV\x01\x05\0\0\0\x09", "video/x-flv"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "video/x-ms-asf"),
        (b"\0\0\1\xba\x44\0\4\0", "video/mpeg"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
        (b"8BPS\0\1", "image/vnd.adobe.photoshop"),
    ],
)
def test_other_first_bytes_give_the_media_type(head: bytes, media_type: str) -> None:
    assert media_type_of(head) == media_type


def test_a_box_that_is_cut_or_has_a_wrong_length_raises_no_exception() -> None:
    whole = header("zzzz", "isom")
    for end in range(len(whole)):
        media_type_of(whole[:end])
    for length in (0, 1, 8, 15, 17, 2**32 - 1):
        media_type_of(length.to_bytes(4) + whole[4:])
