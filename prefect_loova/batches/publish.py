"""Publish chosen videos: copy them within S3 to names of their own, with a manifest and a gallery page."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from prefect_loova._concurrency import map_bounded
from prefect_loova.batches.documents import decode
from prefect_loova.batches.publish_files import gallery_page, manifest_csv, manifest_json
from prefect_loova.batches.publish_names import published_names
from prefect_loova.errors import InvalidRequestError, first_lines, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.keys import complete_key
from prefect_loova.jobs.save import find_saved
from prefect_loova.models.media import KINDS, redact_media
from prefect_loova.models.published import PublishedVideo, PublishedVideos
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.copies import copy_object
from prefect_loova.store.prefix import BucketPrefix, path_problem
from prefect_loova.store.presign import presign
from prefect_loova.store.previews import preview_keys
from prefect_loova.store.records import JobRecords, is_key

DEFAULT_FOLDER = "_published"
"""The default folder of published videos, below the prefix of the job records."""

PAGE, MANIFEST_CSV, MANIFEST_JSON = "index.html", "manifest.csv", "manifest.json"
"""The names of the files beside the videos. No video has such a name, because theirs end with `.mp4`."""

_OURS = {"made-by": "prefect-loova"}  # marks the files beside the videos, which the next run replaces
_CONCURRENT_READS = 16
_TO = re.compile(r"s3://([A-Za-z0-9._-]{1,255})(?:/([^?#]*))?")


@dataclass(frozen=True)
class Copy:
    """A video to publish.

    Attributes:
        saved: The video.
        name: Its name below the target's prefix.
        is_there: Whether the target has it already.
        poster_etag: The ETag of its poster; empty if it has none.
        poster_is_there: Whether the target has this poster already.
    """

    saved: SavedVideo
    name: str
    is_there: bool
    poster_etag: str = ""
    poster_is_there: bool = False

    @property
    def poster_name(self) -> str:
        """The name of its poster below the target's prefix."""
        return f"{self.name.removesuffix('.mp4')}.jpg"


def target_of(to: str, records: JobRecords) -> BucketPrefix:
    """Return the prefix to publish to.

    Args:
        to: An `s3://` URI; empty for the default, a folder below the prefix of the job records.
        records: The job records.

    Raises:
        InvalidRequestError: It is no such URI.
    """
    to = to or records.uri(records.object_key(DEFAULT_FOLDER))
    match = _TO.fullmatch(to)
    prefix = (match[2] or "").removesuffix("/") if match else ""
    problem = (path_problem(prefix) if prefix else None) if match else "must be s3://BUCKET/PREFIX/"
    if match is None or problem:
        raise InvalidRequestError(f"to: {redact(repr(to), 200)} was given: {problem}")
    return BucketPrefix(records.s3, match[1], prefix)


def keys_of_report(content: bytes, name: str, records: JobRecords) -> list[str]:
    """Return the keys of the videos that the report of a batch has in the bucket.

    Drafts, takes that a person did not choose, and videos that a quality gate rejected are left out.

    Args:
        content: The file.
        name: Its name, for errors.
        records: The job records of the batch.

    Raises:
        InvalidRequestError: It is no report of a batch, or its videos are in another bucket or prefix.
    """
    source = f"report: {redact(name, 200)}"
    text = decode(content, source)
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    if not {"outcome", "video"} <= set(rows.fieldnames or ()):
        raise InvalidRequestError(f"{source} is no report of a batch: it needs the columns outcome and video")
    keys, below = [], records.uri(f"{records.prefix}/".lstrip("/"))
    try:
        for row in rows:
            video = row["video"] or ""
            key, _, file = video.removeprefix(below).partition("/")
            is_wanted = row.get("choice", "") in ("", "chosen") and not row.get("rejected")
            if row["outcome"] not in ("saved", "reused") or row.get("is_draft") == "True" or not is_wanted:
                continue
            if not (is_key(key) and file):
                raise InvalidRequestError(
                    f"{source}, line {rows.line_num}: {redact(video, 200)} is not below {below}: use the bucket and "
                    "the prefix of the batch"
                )
            keys.append(key)
    except csv.Error as error:
        raise InvalidRequestError(f"{source}, line {rows.line_num}: {redact(error)}") from None
    return keys


async def find_videos(jobs: VideoJobs, keys: Sequence[str]) -> list[SavedVideo]:
    """Return the saved videos of requests, each once, in the order of the list.

    Args:
        jobs: The API and the bucket.
        keys: Requests' keys, or unique beginnings of them.

    Raises:
        InvalidRequestError: A key belongs to no video in the bucket, or its beginning to several. The error lists all.
        StorageError: The bucket cannot be read or, for a beginning of a key, not listed.
    """
    problems = dict[int, str]()

    async def find(numbered: tuple[int, str]) -> SavedVideo | None:
        try:
            return await _find_video(jobs, numbered[1])
        except InvalidRequestError as error:
            problems[numbered[0]] = error.message
            return None

    found = await map_bounded(find, enumerate(keys), _CONCURRENT_READS)
    if problems:
        raise InvalidRequestError("\n".join(first_lines([problems[number] for number in sorted(problems)])))
    return [*{video.key: video for video in found if video is not None}.values()]


async def _find_video(jobs: VideoJobs, given: str) -> SavedVideo:
    key = await complete_key(jobs.records, given, field="keys", is_open=False)
    problem, stored = "no job has this key, or its record may not be read (s3:GetObject)", await jobs.records.read(key)
    if stored is not None and stored.record.state != "saved":
        problem = f"the job is {stored.record.state.replace('_', ' ')}, so it has no video in the bucket"
    elif stored is not None:
        if saved := await find_saved(jobs, jobs.submission(stored.record, reused=True)):
            return saved
        problem = "the video is missing from the bucket; make the same request again to save it"
    raise InvalidRequestError(f"keys: {redact(repr(given), 80)} was given: {problem}")


@dataclass(frozen=True)
class Publisher:
    """Copies videos of one bucket to a prefix.

    Attributes:
        jobs: The API and the bucket of the videos.
        target: The prefix to publish to.
        overwrite: Whether objects with other content may be replaced.
        upload_options: boto3's `ExtraArgs` of an upload.
    """

    jobs: VideoJobs
    target: BucketPrefix
    overwrite: bool = False
    upload_options: Mapping[str, Any] = field(default_factory=dict)

    async def plan(self, videos: Sequence[SavedVideo], template: str) -> list[Copy]:
        """Name the videos, and compare them with what the target has. Nothing is copied.

        Raises:
            InvalidRequestError: The template breaks a rule, several videos would get one name, or the target has
                objects with other content. The error lists all of them.
            StorageError: The target cannot be read.
        """
        names = published_names(videos, template, self.target.prefix)
        self._protect_records(names)
        pairs = zip(videos, names, strict=True)
        compared = await map_bounded(lambda pair: self._compare(*pair), pairs, _CONCURRENT_READS)
        files = (PAGE, MANIFEST_CSV, MANIFEST_JSON)
        foreign = [name for _, refused in compared for name in refused]
        foreign += [name for name in files if not self.overwrite and await self._is_foreign(name)]
        if foreign:
            rule = "exist with other content, and nothing was copied; with overwrite, they are replaced"
            uris = [redact(self._uri(name), 300) for name in foreign]
            raise InvalidRequestError("\n".join([f"to: these objects {rule}", *first_lines(uris)]))
        return [copy for copy, _ in compared]

    def _protect_records(self, names: Sequence[str]) -> None:
        """Refuse names below the prefix of the job records, which has the saved videos, except in the folder for it."""
        records = self.jobs.records
        own, free = f"{records.prefix}/".lstrip("/"), f"{records.object_key(DEFAULT_FOLDER)}/"
        for key in map(self._key, names) if self.target.bucket == records.bucket else ():
            if key.startswith(own) and not key.startswith(free):
                raise InvalidRequestError(
                    f"to: {redact(self.target.uri(key), 200)} is among the job records: publish outside of "
                    f"{records.uri(own)}, or below {records.uri(free)}"
                )

    async def _compare(self, saved: SavedVideo, name: str) -> tuple[Copy, list[str]]:
        """Return the copy to make, and the names in the target that have other content."""
        source, refused = self.jobs.records, list[str]()
        there = await self._head(name)
        is_there = there is not None and (
            there["ContentLength"] == saved.size_bytes and there["Metadata"].get("sha256") == saved.sha256
        )
        if there is not None and not is_there:
            refused.append(name)
        copy = Copy(saved, name, is_there)
        poster = await source.head(_poster_key(source, saved), denied_is_missing=True)
        if poster is not None:
            made_from = (await self._head(copy.poster_name) or {"Metadata": None})["Metadata"]
            etag = poster["ETag"].strip('"')
            copy = Copy(saved, name, is_there, etag, made_from is not None and made_from.get("source-etag") == etag)
            if made_from is not None and "source-etag" not in made_from:
                refused.append(copy.poster_name)
        return copy, [] if self.overwrite else refused

    async def _is_foreign(self, name: str) -> bool:
        there = await self._head(name)
        return there is not None and not _OURS.items() <= there["Metadata"].items()

    async def _head(self, name: str) -> Any:
        # Without s3:ListBucket, 403 may mean that it exists.
        return await self.target.head(self._key(name), denied_is_missing=self.overwrite)

    async def copy(self, copy: Copy) -> PublishedVideo:
        """Copy a video and its poster, as far as the target does not have them.

        Raises:
            StorageError: The video cannot be read, or the target cannot be written.
        """
        saved, source = copy.saved, self.jobs.records
        if not copy.is_there:
            metadata = {"sha256": saved.sha256, "request-key": saved.key}
            await self._copy(source.key_of(saved.video), copy.name, "video/mp4", metadata)
        if copy.poster_etag and not copy.poster_is_there:
            metadata = {"source-etag": copy.poster_etag}
            await self._copy(_poster_key(source, saved), copy.poster_name, "image/jpeg", metadata)
        return self._published(copy)

    async def finish(self, videos: Sequence[PublishedVideo], link_seconds: int = 0) -> PublishedVideos:
        """Write the manifest, and last of all the page.

        Args:
            videos: What `copy` returned.
            link_seconds: For how long the page's links are valid, in seconds; 0 for relative links, which need no
                signature.

        Raises:
            StorageError: The target cannot be written.
        """
        target, until = self.target, None
        link: Callable[[str], str] = quote
        if link_seconds:
            until = datetime.now(UTC) + timedelta(seconds=link_seconds)

            def link(name: str) -> str:
                return presign(target.s3, target.bucket, self._key(name), link_seconds)

        title = target.prefix.rpartition("/")[2].strip("_") or "Videos"
        await self._write(MANIFEST_CSV, manifest_csv(videos), "text/csv; charset=utf-8")
        await self._write(MANIFEST_JSON, manifest_json(videos), "application/json")
        page = gallery_page(title, videos, link, manifest=link(MANIFEST_CSV), until=until)
        await self._write(PAGE, page, "text/html; charset=utf-8")
        return PublishedVideos(
            to=target.uri(f"{target.prefix}/".lstrip("/")), page=self._uri(PAGE), videos=tuple(videos)
        )

    async def _write(self, name: str, content: bytes, content_type: str) -> None:
        options = dict(self.upload_options) | {"Metadata": _OURS}
        await self.target.put_bytes(self._key(name), content, content_type, **options)

    async def _copy(self, source_key: str, name: str, content_type: str, metadata: dict[str, str]) -> None:
        await copy_object(
            self.jobs.records,
            source_key,
            self.target,
            self._key(name),
            content_type,
            metadata,
            options=self.upload_options,
        )

    def _published(self, copy: Copy) -> PublishedVideo:
        saved = copy.saved
        request = saved.request
        media = [redact_media(text) for kind in KINDS for text in request.get(kind, ())]
        return PublishedVideo(
            name=copy.name,
            video=self._uri(copy.name),
            poster=copy.poster_name if copy.poster_etag else "",
            prompt=str(request.get("prompt", "")),
            key=saved.key,
            take=request.get("take", 0),
            label=saved.label,
            model=str(request.get("model", "")),
            ratio=str(request.get("ratio", "")),
            duration=request.get("duration", 0),
            credits=saved.credits_cost,
            sha256=saved.sha256,
            size_bytes=saved.size_bytes,
            media=tuple(media),
            source=saved.video,
            is_new=not copy.is_there,
        )

    def _key(self, name: str) -> str:
        return self.target.object_key(name)

    def _uri(self, name: str) -> str:
        return self.target.uri(self._key(name))


def _poster_key(records: JobRecords, saved: SavedVideo) -> str:
    return preview_keys(records.key_of(saved.video), "image/webp").poster
