"""Where a manifest is read and its report is written: a local file, or an object in S3."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect.run import local_files
from prefect_loova.batches.cells import HOW
from prefect_loova.batches.manifest import MAX_BYTES, report_as_csv, report_name
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.models.reports import BatchReport
from prefect_loova.store.errors import S3_ERRORS, status_of, storage_error
from prefect_loova.store.prefix import validate_bucket

_IN_A_LIST = LocalFiles(hint=f"{LocalFiles.hint}; in a cell of a list, {HOW}")


class Manifest:
    """A manifest by its name.

    Args:
        name: A local path, or an `s3://` URI.
        bucket: The block whose credentials read and write `s3://` URIs.
        what: What it is called in errors.
    """

    def __init__(self, name: str, bucket: S3Bucket, what: str = "manifest") -> None:
        self.name = name
        self._what = what
        self._credentials = bucket.credentials

    def local_files(self, media_folder: str | None) -> LocalFiles:
        """The local files that the list may name.

        Args:
            media_folder: The folder that they must lie in, which relative paths begin at where the list is in S3.

        Raises:
            InvalidRequestError: A run of a deployment was given a folder outside of its working directory.
        """
        folder, within = Path(media_folder) if media_folder else None, local_files().within
        if folder and within and not folder.resolve().is_relative_to(within.resolve()):
            raise InvalidRequestError(
                f"media_folder: {redact(repr(media_folder), 200)} was given: in a run of a deployment it must lie in "
                f"the working directory, {within}"
            )
        if self.name.startswith("s3://"):
            return replace(_IN_A_LIST, allowed=folder is not None, base=folder, within=folder)
        return replace(_IN_A_LIST, base=Path(self.name).parent, within=folder or within)

    async def read(self) -> bytes:
        """Its bytes.

        Raises:
            InvalidRequestError: There is no such file or object, or it may not be read.
            StorageError: S3 cannot be reached, or does not answer as it should: the list may be as it should.
        """
        try:
            return await asyncio.to_thread(self._read)
        except ValueError as error:
            raise InvalidRequestError(f"{self._what}: {redact(self.name, 200)} cannot be read: {error}") from None
        except OSError as error:
            raise InvalidRequestError(
                f"{self._what}: {redact(self.name, 200)} cannot be read: {error.strerror}"
            ) from None
        except S3_ERRORS as error:
            failure = storage_error(error, redact(self.name, 200))
            told = f"{self._what}: {failure.message}"
            if status_of(error) in (400, 403, 404):  # no such place, or not for these credentials
                raise InvalidRequestError(told) from None
            raise StorageError(told, transient=failure.transient, http_status=failure.http_status) from None

    async def write_report(self, report: BatchReport) -> None:
        """Write the report beside it. That it cannot be written is only told: the videos are what was paid for."""
        try:
            await asyncio.to_thread(self._write, report_name(self.name), report_as_csv(report))
        except (OSError, StorageError, *S3_ERRORS) as error:
            get_run_logger().warning("no report was written beside the manifest (%s)", redact(error))
        else:
            get_run_logger().info("the report is in %s", report_name(self.name))

    def _read(self) -> bytes:
        if not self.name.startswith("s3://"):
            with local_files().find(self.name).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        bucket, key = self._place(self.name)
        body = self._s3.get_object(Bucket=bucket, Key=key)["Body"]
        content: bytes = body.read(MAX_BYTES + 1)
        return content

    def _write(self, name: str, content: bytes) -> None:
        if not name.startswith("s3://"):
            Path(name).write_bytes(content)
            return
        bucket, key = self._place(name)
        self._s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType="text/csv")

    @property
    def _s3(self) -> Any:
        return self._credentials.get_s3_client()

    def _place(self, uri: str) -> tuple[str, str]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise InvalidRequestError(f"{self._what}: {redact(uri, 200)} was given: must be s3://BUCKET/KEY")
        return validate_bucket(bucket), key
