"""The local files that a request may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect_loova.models.media import MediaError


@dataclass(frozen=True)
class LocalFiles:
    """The local files that a request may use.

    Attributes:
        allowed: Whether local files may be read at all.
        base: The folder of relative paths; by default the working directory.
        within: The folder that must contain all files, after symbolic links are resolved; by default any folder.
        hint: A hint for the error about a missing file.
    """

    allowed: bool = True
    base: Path | None = None
    within: Path | None = None
    hint: str = "a URL begins with https://, an object in S3 with s3://"

    def find(self, path: str) -> Path:
        """Return the resolved path of a file.

        Raises:
            MediaError: The file does not exist or may not be read.
        """
        if not self.allowed:
            raise MediaError("what comes from S3 may not read local files, unless media_folder allows it")
        try:
            base = self.base or Path.cwd()
            resolved = (base / Path(path).expanduser()).resolve()
            if "\\" in path and not resolved.exists():  # a Windows path
                resolved = (base / Path(path.replace("\\", "/")).expanduser()).resolve()
            if self.within is not None and not resolved.is_relative_to(self.within.resolve()):
                raise MediaError(f"it lies outside of {self.within}, and only files in there may be read")
            resolved.stat()
        except (OSError, RuntimeError):
            raise MediaError(f"there is no such file ({self.hint})") from None
        return resolved
