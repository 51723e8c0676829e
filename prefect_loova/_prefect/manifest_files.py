"""Read a manifest and write its report, in a local file or an object in S3."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect.run import local_files
from prefect_loova.batches.cells import CELL_HINT
from prefect_loova.batches.manifest import MAX_BYTES, report_as_csv, report_name
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.models.reports import BatchReport
from prefect_loova.store.errors import S3_ERRORS, status_of, storage_error
from prefect_loova.store.prefix import validate_bucket

_LIST_FILES = LocalFiles(hint=f"{LocalFiles.hint}; in a cell of a list, {CELL_HINT}")


class Manifest:
    """A manifest in a file.

    Args:
        name: A local path, or an `s3://` URI.
        bucket: The block whose credentials read and write `s3://` URIs.
        what: The word for it in errors.
    """

    def __init__(self, name: str, bucket: S3Bucket, what: str = "manifest") -> None:
        self.name = name
        self._what = what
        self._credentials = bucket.credentials

    def local_files(self, media_folder: str | None) -> LocalFiles:
        """Return the local files that the list may name.

        Args:
            media_folder: The folder of the files. For a list in S3, relative paths start there.

        Raises:
            InvalidRequestError: The folder of a deployment's run is outside of its working directory.
        """
        folder, within = Path(media_folder) if media_folder else None, local_files().within
        if folder and within and not folder.resolve().is_relative_to(within.resolve()):
            raise InvalidRequestError(
                f"media_folder: {redact(repr(media_folder), 200)} was given: in a run of a deployment it must lie in "
                f"the working directory, {within}"
            )
        if self.name.startswith("s3://"):
            return replace(_LIST_FILES, allowed=folder is not None, base=folder, within=folder)
        return replace(_LIST_FILES, base=Path(self.name).parent, within=folder or within)

    async def read(self) -> bytes:
        """Read the file.

        Raises:
            InvalidRequestError: The file or object does not exist, or access is denied.
            StorageError: S3 cannot be reached, or returns another error.
        """
        if self.name.lower().startswith(("http://", "https://")):
            raise InvalidRequestError(
                f"{self._what}: {redact(self.name, 200)} was given: must be a local file or an s3:// URI; download it "
                "first"
            )
        try:
            return await asyncio.to_thread(self._read)
        except ValueError as error:
            raise InvalidRequestError(f"{self._what}: {redact(self.name, 200)} cannot be read: {error}") from None
        except OSError as error:
            reason = error.strerror
            raise InvalidRequestError(f"{self._what}: {redact(self.name, 200)} cannot be read: {reason}") from None
        except S3_ERRORS as error:
            failure = storage_error(error, redact(self.name, 200))
            message = f"{self._what}: {failure.message}"
            if status_of(error) in (400, 403, 404):  # it does not exist, or access is denied
                raise InvalidRequestError(message) from None
            raise StorageError(message, transient=failure.transient, http_status=failure.http_status) from None

    async def write_report(self, report: BatchReport) -> None:
        """Write the report beside the manifest. A failure is only logged, because the videos are saved."""
        try:
            await asyncio.to_thread(self._write, report_name(self.name), report_as_csv(report))
        except (OSError, StorageError, *S3_ERRORS) as error:
            get_run_logger().warning("no report was written beside the manifest (%s)", redact(error))
        else:
            get_run_logger().info("the report is in %s", report_name(self.name))

    def _read(self) -> bytes:
        if not self.name.startswith("s3://"):
            files = replace(local_files(), hint="an object in S3 begins with s3://")
            with files.find(self.name).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        bucket, key = self._split(self.name)
        body = self._credentials.get_s3_client().get_object(Bucket=bucket, Key=key)["Body"]
        return body.read(MAX_BYTES + 1)

    def _write(self, name: str, content: bytes) -> None:
        if not name.startswith("s3://"):
            Path(name).write_bytes(content)
            return
        bucket, key = self._split(name)
        self._credentials.get_s3_client().put_object(Bucket=bucket, Key=key, Body=content, ContentType="text/csv")

    def _split(self, uri: str) -> tuple[str, str]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise InvalidRequestError(f"{self._what}: {redact(uri, 200)} was given: must be s3://BUCKET/KEY")
        return validate_bucket(bucket), key
