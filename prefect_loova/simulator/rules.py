"""Loova's documented rules and prices, as the simulator applies them.

They repeat `prefect_loova.models` on purpose. The simulator imports no rule of the package, so a wrong price or limit
there cannot agree with itself. `tests/unit/simulator/test_rules.py` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

# create-seedance-2-video-task
CHOICES = {
    "model": ("seedance_2_0", "seedance_2_0_fast"),
    "function_mode": ("first_last_frames", "omni_reference"),
    "ratio": ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16"),
}
"""The allowed values of a field."""

DEFAULTS = {"model": "seedance_2_0", "function_mode": "omni_reference", "ratio": "16:9", "duration": 5}
"""The values of fields that a request leaves out."""

DURATIONS = range(4, 16)
"""The allowed durations, in seconds."""

MAX_MEDIA = {"image_urls": 9, "audio_urls": 3, "video_urls": 3}
"""How many media of a kind a request may have, files included."""

FRAMES = range(1, 3)
"""How many images `first_last_frames` takes. The page says at most 2; public clients of Loova ask for at least 1."""

# pricing-and-limits
CREDITS_PER_SECOND = {
    ("seedance_2_0", True): 30,
    ("seedance_2_0", False): 15,
    ("seedance_2_0_fast", True): 20,
    ("seedance_2_0_fast", False): 10,
}
"""Credits for a second of output, by model and whether the request has a reference video."""


@dataclass(frozen=True)
class ExtraModel:
    """A model that the simulator serves beside Loova's, for tests of a user's own model.

    Attributes:
        path: The path of its submit call below `/v1`, such as `/video/seedance-3`.
        credits_per_second: Its price, with and without a reference video.
        durations: Its durations, in seconds.
    """

    path: str
    credits_per_second: float
    durations: range = DURATIONS


MAX_RUNNING = 6
"""How many tasks of an account run at a time."""
