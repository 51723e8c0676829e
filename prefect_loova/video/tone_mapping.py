"""Converts HDR frames (PQ and HLG) to SDR.

Reference white (203 cd/m2 in PQ, 75% of the signal in HLG: ITU-R BT.2408) becomes white. Brighter values are clipped.
Colours outside of BT.709 lose saturation and keep their hue. swscale does the conversion.
"""

from __future__ import annotations

import threading

from av import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from prefect_loova.video.images import EXACT, colour_properties

_HDR = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
_PRIMARIES = frozenset(ColorPrimaries) - {ColorPrimaries.UNSPECIFIED}
_UNSPECIFIED = 2
_BT2020 = 9


class _Local(threading.local):
    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


# A reformatter keeps its colour table, which takes 2 s of CPU, for the next frame with the same properties.
_local = _Local()


def sdr(frame: VideoFrame) -> VideoFrame:
    """Convert a decoded PQ or HLG frame to BT.709 RGB. Return any other frame unchanged.

    Args:
        frame: A decoded frame. Unspecified colour properties of an HDR frame are set to BT.2020.
    """
    if frame.color_trc not in _HDR:
        return frame
    if frame.color_primaries not in _PRIMARIES:
        frame.color_primaries = ColorPrimaries.BT2020
    if frame.colorspace == _UNSPECIFIED:
        frame.colorspace = _BT2020
    matrix, colour_range = colour_properties(frame)
    return _local.reformatter.reformat(
        frame,
        format="gbrp",
        src_colorspace=matrix,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=colour_range,
        dst_color_range=ColorRange.JPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=EXACT,
    )
