"""Files of DVC's that are written in place: a kill, or a full disk, at the wrong moment cuts them short.

dvc.lock then can't be read, and no command works until somebody repairs it; so can't `rwlock`, by which the processes
of DVC leave each other's outs alone. A build keeps the last dvc.lock that was whole, and puts it back.
"""

import json
import os
import time
from pathlib import Path
from threading import get_native_id

import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA

from flows.stage import Tell

LOCK = "dvc.lock"
MERGE = b"<<<<<<<"  # git's: not cut short, and for people to decide


def mend(root: Path, state: Path, tell: Tell) -> None:
    """Put back what was cut short at `root`; `state` is where `keep_lock` has kept it."""
    lock, kept = root / LOCK, state / LOCK
    text, good = _bytes(lock), _bytes(kept)
    if text is not None and good is not None and text != good and MERGE not in text and not _is_lock(text):
        _copy(good, lock)
        tell(f"{LOCK} was cut short by a kill or a full disk: it is again what it was before")
    keep_lock(root, state)
    _mend_rwlock(root / ".dvc" / "tmp" / "rwlock", tell)


def keep_lock(root: Path, state: Path) -> None:
    """Keep dvc.lock as it is now, if it is whole: a neighbour may be writing it."""
    text = _bytes(root / LOCK)
    if text is None or text == _bytes(state / LOCK) or not _is_lock(text):
        return
    try:
        _copy(text, state / LOCK)
    except OSError:  # a full disk: what was kept before remains
        return


def _is_lock(text: bytes) -> bool:
    try:
        return bool(COMPILED_LOCKFILE_SCHEMA(yaml.load(text, Loader=yaml.CSafeLoader)))
    except Exception:  # whatever YAML and the schema say
        return False


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _copy(text: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{get_native_id()}.new")
    new.write_bytes(text)
    os.replace(new, path)


def _mend_rwlock(path: Path, tell: Tell) -> None:
    """Remove it if nobody can read it. It is looked at twice: it is unreadable while it is written, too."""
    if _is_json(path):
        return
    before = path.stat().st_mtime_ns
    time.sleep(1)
    if not _is_json(path) and path.stat().st_mtime_ns == before:
        path.unlink()
        tell(f"{path.name} of DVC was cut short by a kill or a full disk: it is begun anew")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True
