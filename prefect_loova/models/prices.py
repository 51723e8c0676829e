"""Loova's models and prices (pricing-and-limits)."""

from __future__ import annotations

from typing import Literal

Model = Literal["seedance_2_0", "seedance_2_0_fast"]
"""The models that Loova offers."""

CREDITS_PER_SECOND: dict[tuple[Model, bool], float] = {
    ("seedance_2_0", True): 30,
    ("seedance_2_0", False): 15,
    ("seedance_2_0_fast", True): 20,
    ("seedance_2_0_fast", False): 10,
}
"""Credits per second of output, by model and whether the request has a reference video (pricing-and-limits)."""

USD_PER_CREDIT = (0.032, 0.080)
"""The price of one credit in US dollars, in the largest and in the smallest pack (pricing-and-limits)."""


def format_credits(credits: float) -> str:
    """Return an amount of credits with its price range in US dollars (pricing-and-limits)."""
    low, high = (credits * rate for rate in USD_PER_CREDIT)
    return f"{credits:,.10g} credits (${low:,.2f} to ${high:,.2f})"
