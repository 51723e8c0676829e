"""The settings `PREFECT_INTEGRATIONS_LOOVA_*`, in the environment, a Prefect profile or pyproject.toml."""

from __future__ import annotations

from typing import Literal, Self

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, ValidationError

from prefect_loova._timing import POLL_SECONDS
from prefect_loova.client import DEFAULT_BASE_URL
from prefect_loova.errors import InvalidRequestError


class LoovaSettings(PrefectBaseSettings):
    """The defaults of blocks, flows and tasks. A value in a block or a call wins over its setting.

    Example:
        ```python
        from prefect_loova.settings import LoovaSettings

        def main() -> float:
            return LoovaSettings.load().poll_seconds
        ```
    """

    model_config = build_settings_config(("integrations", "loova"))

    base_url: str = Field(DEFAULT_BASE_URL, description="Where the API's /v1 is, for new credentials blocks.")
    timeout: float = Field(30.0, gt=0, description="The timeout of a read, in seconds, for new credentials blocks.")
    submit_timeout: float = Field(
        60.0, gt=0, le=600, description="The total timeout of a submit, in seconds, for new credentials blocks."
    )
    poll_seconds: float = Field(
        POLL_SECONDS, gt=0, le=3600, description="The longest first pause between polls, in seconds."
    )
    preview: Literal["moving", "still", "none"] | None = Field(
        None, description="What the page of a video shows; by default `moving` for one video, `still` for many."
    )
    cost_tolerance: float = Field(
        0.1,
        ge=0,
        description="The largest difference between Loova's charge and the estimate, as a fraction of the estimate, "
        "that sends no event `loova.job.cost_differs`.",
    )
    concurrency_limit: str = Field(
        "loova", description="The Prefect global concurrency limit of videos that are made at the same time."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The lowest level of the package's lines in the logs of runs."
    )

    @classmethod
    def load(cls) -> Self:
        """Return the settings.

        Raises:
            InvalidRequestError: A setting is invalid; the error names it and the rule.
        """
        try:
            return cls()
        except ValidationError as error:
            problem = InvalidRequestError.from_validation(error)
            raise InvalidRequestError(f"settings PREFECT_INTEGRATIONS_LOOVA_*: {problem.message}") from None
