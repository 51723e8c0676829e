"""Which local files a request may name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect_loova.models.media import MediaError


@dataclass(frozen=True)
class LocalFiles:
    """Which local files may be read for a request.

    Attributes:
        allowed: Whether any may.
        base: What relative paths begin at; the working directory, if not given.
        within: The folder that all must lie in, links followed; any, if not given.
        hint: What to say where there is no such file.
    """

    allowed: bool = True
    base: Path | None = None
    within: Path | None = None
    hint: str = "a URL begins with https://, an object in S3 with s3://"

    def find(self, path: str) -> Path:
        """The file of a path.

        Raises:
            MediaError: Says why it may not be read.
        """
        if not self.allowed:
            raise MediaError("what comes from S3 may not read local files, unless media_folder allows it")
        try:
            base = self.base or Path.cwd()
            whole = (base / Path(path).expanduser()).resolve()
            if "\\" in path and not whole.exists():  # as Windows writes a path
                whole = (base / Path(path.replace("\\", "/")).expanduser()).resolve()
            if self.within is not None and not whole.is_relative_to(self.within.resolve()):
                raise MediaError(f"it lies outside of {self.within}, and only files in there may be read")
            whole.stat()
        except (OSError, RuntimeError):
            raise MediaError(f"there is no such file ({self.hint})") from None
        return whole
