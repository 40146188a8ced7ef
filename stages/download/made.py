"""Files that download makes of what it gets: the same bytes whenever they are made of the same revision."""

from collections.abc import Callable
from pathlib import Path

from stages.download.scratch import digest_of, is_kept, kept, place
from stages.locked import Locked, LockedFile, difference, drifted


def taken(path: Path, url: str) -> LockedFile:
    """The file at `path`, which scratch keeps from now on under its digest, too; `url` is what it was made of."""
    sha256 = digest_of(path)
    if not is_kept(sha256):
        kept(sha256).unlink(missing_ok=True)
        place(path, kept(sha256))
    return LockedFile(name=path.name, bytes=path.stat().st_size, sha256=sha256, url=url)


def is_the_same(before: Locked | None, revision: str | None, url: str) -> bool:
    """If what was locked `before` was made of this revision in this way."""
    return before is not None and before.revision == revision and all(file.url == url for file in before.files)


def refuse_another(source: str, locked: Locked, url: str) -> None:
    """Refuse if the parameters mean something else, `url`, than was locked."""
    if other := [file.url for file in locked.files if file.url != url]:
        raise drifted(source, [f"{url} is asked for (locked: {other[0]})"])


def fill_made(source: str, locked: Locked, folder: Path, make: Callable[[], list[LockedFile]]) -> None:
    """Put the locked files into `folder`, made anew by `make` if scratch doesn't have them.

    Raises:
        Refusal: if they come out otherwise than they were locked.
    """
    if not all(file.sha256 and is_kept(file.sha256) for file in locked.files):
        before, after = locked.by_name(), {file.name: file for file in make()}
        phrases = [f"{name} is new" for name in sorted(after.keys() - before)]
        phrases += [f"{name} is gone" for name in sorted(before.keys() - after)]
        phrases += [phrase for name in before.keys() & after for phrase in difference(before[name], after[name])]
        if phrases:
            raise drifted(source, sorted(phrases))
    for file in locked.files:
        place(kept(file.sha256 or ""), folder / file.name)
