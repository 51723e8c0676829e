"""The result of publishing: each published video, as the manifest and the gallery page list it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.errors import counted


class PublishedVideo(BaseModel):
    """A video that was copied to the collection, or was there already."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="The name below the collection's prefix.")
    video: str = Field(description="The published video, as an s3:// URI.")
    poster: str = Field("", description="The name of its picture below the collection's prefix, if it has one.")
    prompt: str = Field(description="The prompt.")
    key: str = Field(description="The request's key.")
    take: int = Field(0, description="The request's take.")
    label: str = Field("", description="The request's label.")
    model: str = Field(description="The requested model.")
    ratio: str = Field(description="The requested aspect ratio.")
    duration: int = Field(description="The requested duration, in seconds.")
    credits: float | None = Field(None, description="The credits that Loova charged, if it reported them.")
    sha256: str = Field(description="The SHA-256 of the video, as hex digits.")
    size_bytes: int = Field(description="The video's size, in bytes.")
    media: tuple[str, ...] = Field((), description="The reference media, without the queries of URLs.")
    source: str = Field(description="The video that was copied, as an s3:// URI.")
    is_new: bool = Field(True, description="Whether this run copied the video.")


class PublishedVideos(BaseModel):
    """A published collection."""

    model_config = ConfigDict(frozen=True)

    to: str = Field(description="The collection's prefix, as an s3:// URI.")
    page: str = Field(description="The gallery page, as an s3:// URI.")
    videos: tuple[PublishedVideo, ...] = Field(description="The videos, in the order of your list.")

    @property
    def counts(self) -> str:
        """How many videos there are, and how many of them this run copied."""
        new = sum(video.is_new for video in self.videos)
        return f"{counted(len(self.videos), 'video')}, {new} copied by this run"

    @property
    def summary(self) -> str:
        """One line for a log."""
        return f"{self.counts}; {self.page}"
