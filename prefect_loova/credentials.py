"""The block that holds what is needed to speak with Loova."""

from __future__ import annotations

import os
from typing import ClassVar, Self

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, SecretStr, field_validator

from prefect_loova._api.messages import PHRASE_RULE, SHORTEST_PHRASE, normalize
from prefect_loova._urls import url_problem
from prefect_loova.client import DEFAULT_BASE_URL, LoovaClient
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import JobTimes
from prefect_loova.models.media_types import MediaRules


class LoovaCredentials(CredentialsBlock):
    """Credentials for the Loova API.

    Attributes:
        api_key: The API key, made in the Loova dashboard.
        base_url: Where the API's `/v1` is.
        timeout: The longest silence of a read, in seconds; 30 by default.
        submit_timeout: The whole time that a submit may take, in seconds; 60 by default.
        unavailable_means_refused: Whether a 503 to a submit counts as a refusal instead of a doubt.
        refusal_phrases: Parts of Loova's messages that mean that a submit was refused; see docs/answers.md.
        max_credits_per_day: The credits that may be spent on one day, by all runs with one bucket and prefix together.
        job_times: When one worker may go on with what another one left.
        media: What reference media may be, and how they reach Loova.

    Example:
        Load stored credentials and ask for the balance:
        ```python
        from prefect_loova import LoovaCredentials, get_credits

        credentials = LoovaCredentials.load("BLOCK_NAME")
        print(get_credits.submit(credentials).result())
        ```
    """

    _block_type_name: ClassVar[str] = "Loova Credentials"
    _block_type_slug: ClassVar[str] = "loova-credentials"
    _logo_url = "https://raw.githubusercontent.com/prefect-loova/prefect-loova/main/docs/logo.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-loova/prefect-loova#readme"  # type: ignore[assignment]

    api_key: SecretStr = Field(title="API key", description="The API key, made in the Loova dashboard.")
    base_url: str = Field(
        DEFAULT_BASE_URL, title="Base URL", description="Where the API's /v1 is; change it for the simulator only."
    )
    timeout: float = Field(30.0, gt=0, title="Timeout", description="The longest silence of a read, in seconds.")
    submit_timeout: float = Field(
        60.0,
        gt=0,
        le=600,
        title="Submit timeout",
        description="The whole time that a submit may take, in seconds; after it the submit is in doubt.",
    )
    unavailable_means_refused: bool = Field(
        False,
        title="503 means refused",
        description="Count a 503 to a submit as a refusal instead of a doubt: only if your way to Loova answers 503 "
        "before it passes a request on.",
    )
    refusal_phrases: list[str] = Field(
        [],
        title="Messages that refuse",
        description="Parts of Loova's messages, in any case, that mean that a submit was refused and nothing was "
        "bought: for refusals that this package does not know. Where an answer may name a task, they are ignored.",
    )
    max_credits_per_day: float | None = Field(
        None,
        ge=0,
        title="Credits per day",
        description="The credits that may be spent on one day (UTC), by all runs with one bucket and prefix together; "
        "a submit that would go over it is refused. Needs s3:ListBucket.",
    )
    job_times: JobTimes = Field(
        default_factory=JobTimes,
        title="Job times",
        description="When one worker may go on with what another one left; the defaults are safe.",
    )
    media: MediaRules = Field(
        default_factory=MediaRules,
        title="Media",
        description="What reference media may be, and how they reach Loova.",
    )

    @field_validator("api_key")
    @classmethod
    def _not_empty(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().strip():
            raise ValueError("the API key is empty: make one in the Loova dashboard")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        problem = url_problem(value)
        if problem:
            raise ValueError(problem)
        return value.rstrip("/")

    @field_validator("refusal_phrases")
    @classmethod
    def _are_phrases(cls, value: list[str]) -> list[str]:
        for phrase in value:
            if len(normalize(phrase)) < SHORTEST_PHRASE:
                raise ValueError(f"{phrase!r} was given: {PHRASE_RULE}")
        return value

    @classmethod
    def from_env(cls) -> Self:
        """Credentials from `LOOVA_API_KEY` and, where it is set, `LOOVA_BASE_URL`.

        Raises:
            InvalidRequestError: There is no key, and what to do about it.
        """
        api_key = os.environ.get("LOOVA_API_KEY", "").strip()
        if not api_key:
            state = "is empty" if "LOOVA_API_KEY" in os.environ else "is not set"
            raise InvalidRequestError(
                f"LOOVA_API_KEY {state}: make a key in the Loova dashboard and export it, "
                "or name a Loova Credentials block"
            )
        base_url = os.environ.get("LOOVA_BASE_URL", "").strip() or DEFAULT_BASE_URL
        problem = url_problem(base_url)
        if problem:
            raise InvalidRequestError(f"LOOVA_BASE_URL: {problem}")
        return cls(api_key=SecretStr(api_key), base_url=base_url)

    def get_client(self) -> LoovaClient:
        """A client of the API, to be entered with `async with`."""
        return LoovaClient(
            self.api_key.get_secret_value(),
            self.base_url,
            timeout=self.timeout,
            submit_timeout=self.submit_timeout,
            unavailable_means_refused=self.unavailable_means_refused,
            refusal_phrases=self.refusal_phrases,
        )
