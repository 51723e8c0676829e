"""The block with the credentials and settings of a Loova account."""

from __future__ import annotations

import os
from collections import Counter
from typing import ClassVar, Literal, Self, overload

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, SecretStr, field_validator

from prefect_loova._api.messages import PHRASE_RULE, SHORTEST_PHRASE, normalize
from prefect_loova._block import LoovaBlock
from prefect_loova._urls import url_problem
from prefect_loova.client import DEFAULT_BASE_URL, LoovaClient
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import JobTimes
from prefect_loova.models.media_types import MediaRules
from prefect_loova.models.prices import VideoModel
from prefect_loova.settings import LoovaSettings
from prefect_loova.sync_client import SyncLoovaClient


class LoovaCredentials(LoovaBlock, CredentialsBlock):
    """Credentials for the Loova API.

    Attributes:
        api_key: The API key from the Loova dashboard.
        base_url: The URL of the API, before `/v1`.
        timeout: The timeout of a read, in seconds; 30 by default.
        submit_timeout: The total timeout of a submit, in seconds; 60 by default.
        unavailable_means_refused: Whether a 503 response to a submit means that it was refused, not in doubt.
        refusal_phrases: Parts of Loova's messages that mean that a submit was refused; see docs/answers.md.
        content_phrases: Parts of Loova's messages that refuse the content of a request or of a video; likewise.
        max_credits_per_day: The credits that all runs with one bucket and prefix together may spend per day.
        job_times: When a worker may take over a job of another worker.
        media: Which reference media are allowed, and how they reach Loova.
        models: Your own models, beside those that Loova documents; see docs/budgets.md.

    Example:
        Load a saved block and read the balance:
        ```python
        from prefect import flow
        from prefect_loova import LoovaCredentials, get_credits

        @flow
        def main() -> float:
            credentials = LoovaCredentials.load("BLOCK_NAME")
            return get_credits.submit(credentials).result().available
        ```
    """

    _block_type_name: ClassVar[str] = "Loova Credentials"
    _block_type_slug: ClassVar[str] = "loova-credentials"

    api_key: SecretStr = Field(title="API key", description="The API key, made in the Loova dashboard.")
    base_url: str = Field(
        default_factory=lambda: LoovaSettings.load().base_url,
        validate_default=True,
        title="Base URL",
        description="Where the API's /v1 is; change it for the simulator only.",
        json_schema_extra={"default": DEFAULT_BASE_URL},
    )
    timeout: float = Field(
        default_factory=lambda: LoovaSettings.load().timeout,
        gt=0,
        title="Timeout",
        description="The timeout of a read, in seconds.",
        json_schema_extra={"default": 30.0},
    )
    submit_timeout: float = Field(
        default_factory=lambda: LoovaSettings.load().submit_timeout,
        json_schema_extra={"default": 60.0},
        gt=0,
        le=600,
        title="Submit timeout",
        description="The total timeout of a submit, in seconds; after it the submit is in doubt.",
    )
    unavailable_means_refused: bool = Field(
        False,
        title="503 means refused",
        description="Treat a 503 response to a submit as a refusal, not as a doubt. Use it only if your proxy responds "
        "with 503 before it forwards a request.",
    )
    refusal_phrases: list[str] = Field(
        [],
        title="Messages that refuse",
        description="Parts of Loova's messages, in any case, that mean that a submit was refused and nothing was "
        "bought, for refusals that this package does not know. They are ignored if the answer may name a task.",
    )
    content_phrases: list[str] = Field(
        [],
        title="Messages that refuse content",
        description="Likewise, parts of messages with which Loova refuses the content of a request or of a video. The "
        "same request is then not bought again.",
    )
    max_credits_per_day: float | None = Field(
        None,
        ge=0,
        title="Credits per day",
        description="The credits that all runs with one bucket and prefix together may spend per day (UTC). A submit "
        "that would exceed it is refused. Needs s3:ListBucket.",
    )
    job_times: JobTimes = Field(
        default_factory=JobTimes,
        title="Job times",
        description="When a worker may take over a job of another worker; the defaults are safe.",
    )
    media: MediaRules = Field(
        default_factory=MediaRules,
        title="Media",
        description="Which reference media are allowed, and how they reach Loova.",
    )
    models: list[VideoModel] = Field(
        [],
        title="Models",
        description="Your own models, each with its path, rules and price. They are added to the models that this "
        "package knows; one of the same name replaces a known one.",
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

    @field_validator("refusal_phrases", "content_phrases")
    @classmethod
    def _are_phrases(cls, value: list[str]) -> list[str]:
        for phrase in value:
            if len(normalize(phrase)) < SHORTEST_PHRASE:
                raise ValueError(f"{phrase!r} was given: {PHRASE_RULE}")
        return value

    @field_validator("models")
    @classmethod
    def _are_different(cls, value: list[VideoModel]) -> list[VideoModel]:
        for name, count in Counter(model.name for model in value).items():
            if count > 1:
                raise ValueError(f"{name!r} was given {count} times: must be given once")
        return value

    @classmethod
    def from_env(cls) -> Self:
        """Return credentials from the environment variables `LOOVA_API_KEY` and, optionally, `LOOVA_BASE_URL`.

        Raises:
            InvalidRequestError: The key is missing, or the URL is invalid.
        """
        api_key = os.environ.get("LOOVA_API_KEY", "").strip()
        if not api_key:
            state = "is empty" if "LOOVA_API_KEY" in os.environ else "is not set"
            raise InvalidRequestError(
                f"LOOVA_API_KEY {state}: make a key in the Loova dashboard and export it, "
                "or name a Loova Credentials block"
            )
        base_url = os.environ.get("LOOVA_BASE_URL", "").strip() or LoovaSettings.load().base_url
        problem = url_problem(base_url)
        if problem:
            raise InvalidRequestError(f"LOOVA_BASE_URL: {problem}")
        return cls(api_key=SecretStr(api_key), base_url=base_url)

    @overload
    def get_client(self, *, sync_client: Literal[False] = False) -> LoovaClient: ...
    @overload
    def get_client(self, *, sync_client: Literal[True]) -> SyncLoovaClient: ...
    def get_client(self, *, sync_client: bool = False) -> LoovaClient | SyncLoovaClient:
        """Return a client of the API, for `async with`.

        Args:
            sync_client: Return a client for sync code instead, for `with`.
        """
        client = LoovaClient(
            self.api_key.get_secret_value(),
            self.base_url,
            timeout=self.timeout,
            submit_timeout=self.submit_timeout,
            unavailable_means_refused=self.unavailable_means_refused,
            refusal_phrases=self.refusal_phrases,
            models=self.models,
            content_phrases=self.content_phrases,
        )
        return SyncLoovaClient(client) if sync_client else client
