"""HDR frames as SDR: what is encoded for bright screens (PQ and HLG), brought to the range of an ordinary picture.

Reference white (203 cd/m2 in PQ, three quarters of the signal in HLG: ITU-R BT.2408) becomes white. What is brighter
is clipped, and colours outside of BT.709 lose saturation, not their hue. swscale does it.
"""

from __future__ import annotations

import threading

from av import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from prefect_loova.video.images import EXACT, colours

_HDR = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
_PRIMARIES = frozenset(ColorPrimaries) - {ColorPrimaries.UNSPECIFIED}
_NOT_SAID = 2
_BT2020 = 9


class _Thread(threading.local):
    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


# It keeps the table of colours, which takes 2 s of processor time, for the next frame of this make.
_thread = _Thread()


def sdr(frame: VideoFrame) -> VideoFrame:
    """A decoded frame in RGB of BT.709, where it is PQ or HLG; any other is returned as it is.

    Args:
        frame: A decoded frame. What it does not say of its colours is set to BT.2020 in it.
    """
    if frame.color_trc not in _HDR:
        return frame
    if frame.color_primaries not in _PRIMARIES:
        frame.color_primaries = ColorPrimaries.BT2020
    if frame.colorspace == _NOT_SAID:
        frame.colorspace = _BT2020
    matrix, colour_range = colours(frame)
    return _thread.reformatter.reformat(
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
