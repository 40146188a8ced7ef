"""The builds that a report puts side by side: this one, the published versions, the newest others of the history.

dvc.lock of each, metrics and manifests from the cache  ->  Row
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage.checkout import files_of
from lineage.diff.results import figures
from lineage.history import Build, builds
from lineage.log import CURRENT, METRICS, VERSION, references
from lineage.sources import source_names

MOST_VERSIONS = 30
MOST_OTHERS = 8
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Row:
    """What is known of a build; what isn't is None."""

    build: Build
    versions: tuple[str, ...] = ()  # v1.2.0
    is_current: bool = False  # the version in production
    is_shown: bool = False  # the build that the report is of
    documents: int | None = None  # to train on
    tokens: int | None = None  # that it was trained on
    parameters: int | None = None
    flops: float | None = None
    bits_per_byte: float | None = None
    low: float | None = None
    high: float | None = None
    missing: str = ""  # the object that isn't here, if one isn't

    @property
    def title(self) -> str:
        """What people call it."""
        return ", ".join(self.versions) or (self.build.commit[:12] if self.build.commit else "not committed")


def rows(root: Path, shown: Build, folder: Path) -> list[Row]:
    """The builds side by side, the newest first; `shown`, whose files are laid out in `folder`, is one of them."""
    history = builds(root)
    found = next((build for build in history if build.lock == shown.lock), None)
    listed = _listed(history, found)
    current = {each.short for each in references(root) if CURRENT in each.status.split(", ")}
    known = [
        _row(root, build, not current.isdisjoint(build.names), folder if build is found else None) for build in listed
    ]
    return known if found else [_row(root, shown, False, folder), *known]


def committed(root: Path, shown: Build) -> Build:
    """`shown`, with the oldest commit that has its dvc.lock, if any has."""
    return next((build for build in builds(root) if build.lock == shown.lock), shown)


def versions_of(build: Build) -> tuple[str, ...]:
    """The published versions that a build is: v1.2.0."""
    return tuple(match[1] for name in build.names if (match := VERSION.fullmatch(name)))


def _listed(history: Sequence[Build], shown: Build | None) -> list[Build]:
    """Of the history, `shown`, the newest versions, the newest of the rest."""
    published = [build for build in history if versions_of(build)][:MOST_VERSIONS]
    others = [build for build in history if not versions_of(build) and build is not shown][:MOST_OTHERS]
    return [build for build in history if build is shown or build in published or build in others]


def _row(root: Path, build: Build, is_current: bool, folder: Path | None) -> Row:
    """What is known of `build`; `folder` holds its files if it is the one that the report is of."""
    files = _Files(root, build, folder)
    pretrain, evaluate = (files.json(path) for path in METRICS)
    return Row(
        build,
        versions_of(build),
        is_current,
        is_shown=folder is not None,
        documents=_documents(files),
        **figures(pretrain, evaluate),
        missing=next((sentence for path in METRICS if (sentence := files.missing(path))), ""),
    )


@dataclass(frozen=True)
class _Files:
    """The files of a build: in `folder` if it is laid out there, else in the cache."""

    root: Path
    build: Build
    folder: Path | None

    def path(self, out: str, within: str = "") -> Path | None:
        """The file `within` of `out`; None if it isn't here."""
        if self.folder is not None:
            found: Path | None = self.folder / out / within
        else:
            known = self.build.outs.get(out)
            found = (files_of(self.root, known) or {}).get(within) if known else None
        return found if found and found.is_file() else None

    def json(self, out: str, within: str = "") -> dict[str, Any]:
        """The JSON object in that file; nothing if it isn't here, or is something else."""
        path = self.path(out, within)
        try:
            loaded = json.loads(path.read_text(encoding="utf-8")) if path else {}
        except ValueError:
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def missing(self, out: str) -> str:
        """Why `out` isn't here; nothing if it is."""
        if self.path(out):
            return ""
        known = self.build.outs.get(out)
        if known is None:
            return f"{out} is no out of this build"
        return f"{out} (object {known.md5}) is not in the cache; `dvc pull` fetches it, if it was pushed"


def _documents(files: _Files) -> int | None:
    """How many documents its token shards hold; None if one of their manifests isn't here."""
    shards = [f"data/tokenize/{name}" for name in source_names(files.build)]
    counts = [files.json(path, MANIFEST).get("counts", {}).get("documents") for path in shards]
    return sum(counts) if counts and None not in counts else None
