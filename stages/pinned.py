"""Files that parameters name with their digest: another file is refused."""

import hashlib
from pathlib import Path

from pydantic import Field

from stages.params import Refusal, StageParams

SHA256 = "^[0-9a-f]{64}$"


class PinnedFile(StageParams):
    """A file, pinned by its digest."""

    file: str = Field(min_length=1, description="its path, from the project's folder")
    sha256: str = Field(pattern=SHA256, description="of that file: another one is refused")


def pinned_path(path: str, sha256: str, key: str) -> Path:
    """The path of the file, whose digest has been compared; it isn't held in memory.

    Raises:
        Refusal: if it can't be read, or has another digest than the parameter `key` says.
    """
    try:
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refusal(_unreadable(path, key, error)) from None
    _compare(found, path, sha256, key)
    return Path(path)


def pinned(path: str, sha256: str, key: str) -> bytes:
    """The bytes of the file at `path`.

    Raises:
        Refusal: as pinned_path.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Refusal(_unreadable(path, key, error)) from None
    _compare(hashlib.sha256(data).hexdigest(), path, sha256, key)
    return data


def pinned_lines(path: str, sha256: str, key: str, what: str) -> list[tuple[str, str]]:
    """The lines of the file at `path` that aren't blank, each with where it stands.

    Raises:
        Refusal: as pinned_path; or if there is no line in it, which says `what` there should be.
    """
    text = pinned(path, sha256, key).decode("utf-8", "replace")
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise Refusal(f"{path} is empty; params.yaml, {key} needs {what} in it")
    return lines


def _unreadable(path: str, key: str, error: OSError) -> str:
    return f"params.yaml, {key}: {path} can't be read ({error.strerror}); put the file there"


def _compare(found: str, path: str, sha256: str, key: str) -> None:
    if found != sha256:
        raise Refusal(
            f"params.yaml, {key}: {path} has sha256 {found}, not {sha256}; bring the right file, or pin this one"
        )
