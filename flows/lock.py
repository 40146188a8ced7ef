"""`pedigree lock`: ask each source what it is now, show what differs from sources.lock, and write it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows.limits import NETWORK_SLOTS
from stages.locked import LOCK, Locked, differences, lock_text, locked_source, read_lock
from stages.params import Refusal, parse_params, source_names

PARAMS = Path("params.yaml")


def lock_sources(names: Iterable[str], root: Path = Path(), tell: Callable[[str], None] = print) -> bool:
    """Lock the sources of these `names` (none: all) as they are now, and tell what has changed; if anything has.

    Raises:
        Refusal: if a source is unknown; or, after the others were locked, if one can't be asked.
    """
    known = source_names(root / PARAMS)
    asked = list(names) or known
    if strangers := [name for name in asked if name not in known]:
        raise Refusal(f"params.yaml has no source {strangers[0]}; it has {', '.join(known)}")
    answers = ask_each("stages.lock", asked, root)
    entries = {name: answer for name, answer in answers.items() if not isinstance(answer, str)}
    before = read_lock(root / LOCK)
    for name, entry in entries.items():
        for line in changes(name, before, entry):
            tell(line)
    after = merged(before, entries, known)
    changed = after != before
    if changed:
        write_lock(root, after)
    if broken := [f"{name}: {answer}" for name, answer in answers.items() if isinstance(answer, str)]:
        raise Refusal("; ".join(broken))
    return changed


def changes(source: str, before: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """What the new `entry` of `source` changes in the lock: a line for each file."""
    after = parse_params(Locked, dict(entry), f"{LOCK}: {source}")
    if source not in before:
        size = sum(file.bytes for file in after.files)
        return [f"{source}: new, {len(after.files)} files, {size} bytes"]
    try:
        found = differences(locked_source(source, before), after)
    except Refusal as refusal:
        return [f"{source}: {refusal}"]
    return [f"{source}: {each}" for each in found]


def merged(before: Mapping[str, Any], entries: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The lock with these new `entries`, without sources that params.yaml doesn't have, in its order."""
    both = {**before, **entries}
    return {name: both[name] for name in known if name in both}


def write_lock(root: Path, entries: Mapping[str, Any]) -> None:
    """Write sources.lock, whole or not at all."""
    partial = root / f".{LOCK.name}.partial"
    partial.write_text(lock_text(entries), encoding="utf-8")
    partial.replace(root / LOCK)


def unlocked(root: Path = Path()) -> list[str]:
    """The sentences about sources that sources.lock lacks, or doesn't have as it was written; DVC would stop there."""
    lock = read_lock(root / LOCK)
    missing = [name for name in source_names(root / PARAMS) if name not in lock]
    if missing:
        names = " ".join(missing)
        return [f"{LOCK} has no source {', '.join(missing)}; run `pedigree lock {names}`, and commit the file"]
    return [sentence for name in source_names(root / PARAMS) if (sentence := _trouble(name, lock))]


def _trouble(source: str, lock: Mapping[str, Any]) -> str | None:
    try:
        locked_source(source, lock)
    except Refusal as refusal:
        return str(refusal)
    return None


def ask_each(module: str, names: Iterable[str], root: Path) -> dict[str, Any]:
    """What `module` answers about each source, several at once; a sentence where it can't be asked."""
    asked = list(names)
    with ThreadPoolExecutor(NETWORK_SLOTS) as pool:
        return dict(zip(asked, pool.map(lambda name: _ask(module, name, root), asked), strict=True))


def _ask(module: str, name: str, root: Path) -> Any:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, name], cwd=root, env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return said[-1].removeprefix("error: ")
    return json.loads(done.stdout)
