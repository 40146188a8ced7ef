"""Where else in the git history a document is that a build hasn't: under another build, another name of its source.

an id or an origin, the history  ->  a sentence with the next question
"""

import time
from pathlib import Path
from typing import Any

import polars as pl

from lineage.checkout import files_of
from lineage.documents import EXTRACT, find
from lineage.history import Build, builds, is_shallow
from lineage.why.query import ID

SECONDS = 5.0  # then it is enough


def elsewhere(root: Path, build: Build, folder: Path, query: str) -> str:
    """What other builds know of `query`, an id or an origin: the newest that has it, and how to ask it.

    A source that was renamed has other ids: then also which document of `build` has the same origin.
    """
    wanted = pl.col("id").str.starts_with(query.lower()) if ID.fullmatch(query) else pl.col("origin") == query
    end, seen, asked = time.monotonic() + SECONDS, set[Path](), 0
    others = [other for other in builds(root) if other.lock != build.lock]
    for other in others:
        if time.monotonic() > end:
            break
        asked += 1
        if row := first(root, other, wanted, seen):
            revision = other.names[0] if other.names else (other.commit or "")[:12]
            here = find(folder, pl.col("origin") == row["origin"])
            now = f"; here the same origin is {here[0].id} of {here[0].source}" if here else ""
            return f"the build {revision} has it ({row['source']}: {row['origin']}): ask with --at {revision}{now}"
    shallow = "; git history is cut off here, `git fetch --unshallow` brings older ones" if is_shallow(root) else ""
    return f"nor has any of {asked} other builds whose files are here{shallow}" if others else ""


def first(root: Path, build: Build, wanted: pl.Expr, seen: set[Path]) -> dict[str, Any] | None:
    """The first document of `build` that is `wanted`, in shards that are in the cache and not yet in `seen`."""
    shards = {
        file
        for path, out in build.outs.items()
        if path.startswith(f"{EXTRACT}/")
        for name, file in (files_of(root, out) or {}).items()
        if name.startswith("documents-") and file.is_file()
    }
    new = sorted(shards - seen)
    seen |= shards
    if not new:
        return None
    rows = pl.scan_parquet(new).filter(wanted).select("id", "source", "origin").head(1).collect(engine="streaming")
    return rows.to_dicts()[0] if len(rows) else None
