"""The checkpoints of scratch on an object store, so that another node can go on from them.

    PEDIGREE_SCRATCH/pretrain/<digest of the inputs>/
        lease                     held by the one trainer that may write here
        step-00000120/            the files of the checkpoint, then its manifest.json
        published/step-00000200/  likewise

A file is not a checkpoint: the manifest, which has the digest of each file, goes last and is removed first, so a
folder without one is half there, or half gone. Of a step, what was published before it goes first.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread
from typing import IO, Any

from fsspec.core import url_to_fs

from stages.documents import MANIFEST, describe, read_manifest
from stages.lease import Lease, LeaseHeld, LeaseLost, Unreachable, owner_by_lock, reaching, take_lease
from stages.params import Refusal
from stages.pretrain.checkpoint import checkpoints, damaged, is_whole, publish_folder, step_of
from stages.process import log
from stages.settings import settings

# Less than the 20 seconds that a flow leaves between SIGTERM and SIGKILL; Slurm and Kubernetes leave 30 and more.
GRACE_SECONDS = 12.0
PUBLISHED = "published"

__all__ = ["Remote", "Unreachable", "held_remote"]


class _Damaged(Exception):
    """A file of a remote checkpoint that is missing or has another digest."""


@contextmanager
def held_remote(url: str, folder: Path, lock: IO[str]) -> "Iterator[Remote]":
    """The place `url` for the checkpoints of `folder`, held by this process until the block ends.

    Args:
        lock: a file that this process has locked; a trainer that died with it here is followed at once.

    Raises:
        Refusal: if another trainer holds it, or access is denied.
        Unreachable: if the store doesn't answer.
    """
    try:
        lease = take_lease(f"{url}/lease", owner_by_lock(lock))
    except LeaseHeld as held:
        raise Refusal(
            f"{url} is in use by another pretrain ({held.holder}); wait for it, or stop it, and run again"
        ) from None
    with lease:
        remote = Remote(url, folder, lease)
        try:
            yield remote
        finally:
            remote.close()


class Remote:
    """The same checkpoints as in `folder`, at `url`. They are sent by a thread while the training goes on.

    A store that doesn't answer costs its copy and nothing else: the next checkpoint is tried again.
    """

    def __init__(self, url: str, folder: Path, lease: Lease) -> None:
        self.url, self.folder = url, folder
        self._lease = lease
        with reaching(url):
            self._store, self._root = url_to_fs(url, use_listings_cache=False)
        self._published: set[str] = set()  # that are there, whole
        self._waiting: Path | None = None
        self._sending: Path | None = None
        self._closing = False
        self._changed = Condition()
        self._thread = Thread(target=self._send_all, name="remote", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another trainer has taken this place over; nothing more is sent then."""
        return self._lease.lost

    @property
    def in_use(self) -> list[Path]:
        """The folders that are being sent, or will be."""
        with self._changed:
            return [folder for folder in (self._waiting, self._sending) if folder]

    def send(self, folder: Path) -> None:
        """Have the checkpoint `folder` sent, in place of one that still waits."""
        with self._changed:
            self._waiting = folder
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until what was handed over is sent, but not longer than a node that is taken away has."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(GRACE_SECONDS)
        if self._thread.is_alive():
            log.warning("pretrain: the newest checkpoint is not whole on %s", self.url)

    def fetch(self) -> None:
        """Bring the newest whole checkpoint here, with what was published before it, unless one here is as new.

        Raises:
            Unreachable: if the store doesn't answer.
        """
        keys = self._keys()
        whole = [key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")]
        self._published = {key.removeprefix(f"{PUBLISHED}/") for key in whole if key.startswith(f"{PUBLISHED}/")}
        names = _newest_first(key for key in whole if "/" not in key)
        for name in _newest_first({_folder_of(key) for key in keys if key.startswith("step-")} - set(names)):
            log.warning("pretrain: %s/%s has no manifest, it was not sent whole; it is not used", self.url, name)
        reached = self._fetch_newest(names)
        # What comes after is made again, and sent again: nobody has looked at what is there.
        self._published = {name for name in self._published if step_of(name) <= reached}

    def _fetch_newest(self, names: list[str]) -> int:
        here = next((step_of(folder.name) for folder in checkpoints(self.folder) if not damaged(folder)), 0)
        for name in names:
            if step_of(name) <= here:
                break
            try:
                self._fetch_step(name)
                return step_of(name)
            except _Damaged as damage:
                log.warning("pretrain: %s is damaged, taking the checkpoint before it", damage)
        return here

    def _fetch_step(self, name: str) -> None:
        for each in sorted(self._published, key=step_of):
            target = self.folder / PUBLISHED / each
            if step_of(each) <= step_of(name) and not target.exists():
                try:
                    self._get(f"{PUBLISHED}/{each}", target)
                except _Damaged:
                    self._published.discard(each)  # it will be made, and sent, again
                    raise
        self._get(name, self.folder / name, with_manifest=True)
        log.info("pretrain: fetched %s/%s", self.url, name)

    def _get(self, name: str, folder: Path, with_manifest: bool = False) -> None:
        """Let `folder` be what is at `name`, every file with its digest."""
        manifest = self._read_manifest(name)

        def write(partial: Path) -> None:
            for entry in manifest["shards"]:
                path = f"{name}/{entry['path']}"
                with reaching(self.url):
                    try:
                        self._store.get_file(f"{self._root}/{path}", str(partial / entry["path"]))
                    except FileNotFoundError:
                        raise _Damaged(f"{self.url}/{path}") from None
                if not is_whole(partial, entry):
                    raise _Damaged(f"{self.url}/{path}")
            if with_manifest:
                (partial / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

        publish_folder(folder, write)

    def _read_manifest(self, name: str) -> dict[str, Any]:
        path = f"{name}/{MANIFEST}"
        with reaching(self.url):
            text = self._store.cat_file(f"{self._root}/{path}")
        try:
            manifest: dict[str, Any] = json.loads(text)
            # A path that leads out of the folder is none of ours.
            is_ours = all(Path(entry["path"]).name == entry["path"] for entry in manifest["shards"])
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise _Damaged(f"{self.url}/{path}")
        return manifest

    def _send_all(self) -> None:
        while folder := self._next():
            try:
                self._send(folder)
            except LeaseLost:
                return
            except (OSError, Refusal) as error:
                log.warning("pretrain: %s was not sent (%s); the next checkpoint is tried again", folder.name, error)

    def _next(self) -> Path | None:
        """The next folder to be sent; None when there will be no more."""
        with self._changed:
            self._sending = None
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._sending, self._waiting = self._waiting, None
            return self._sending

    def _send(self, folder: Path) -> None:
        self._lease.check()
        for published in reversed(checkpoints(self.folder / PUBLISHED)):
            if published.name not in self._published and step_of(published.name) <= step_of(folder.name):
                self._put(published, f"{PUBLISHED}/{published.name}")
                self._published.add(published.name)
        self._put(folder, folder.name)
        self._drop_old()

    def _put(self, folder: Path, name: str) -> None:
        files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
        manifest = (
            read_manifest(folder)
            if (folder / MANIFEST).is_file()
            else {"counts": {}, "shards": [describe(path) for path in files]}
        )
        self._remove(name)
        for path in files:
            with reaching(self.url):
                self._store.put_file(str(path), f"{self._root}/{name}/{path.name}")
        self._lease.check()  # a file of a lost place is only litter, a manifest is a word
        with reaching(self.url):
            self._store.pipe_file(f"{self._root}/{name}/{MANIFEST}", json.dumps(manifest).encode())

    def _drop_old(self) -> None:
        """Remove all but the newest whole checkpoints: older ones, and what is left of an upload that broke off."""
        keys = self._keys()
        whole = _newest_first(_folder_of(key) for key in keys if key.endswith(f"/{MANIFEST}") and key[:5] == "step-")
        for name in {_folder_of(key) for key in keys if key.startswith("step-")} - set(
            whole[: settings().kept_checkpoints]
        ):
            self._remove(name)

    def _remove(self, name: str) -> None:
        paths = [f"{self._root}/{name}/{key}" for key in self._keys(f"/{name}")]
        manifest = [path for path in paths if path.endswith(f"/{MANIFEST}")]
        for part in (manifest, [path for path in paths if path not in manifest]):
            if part:
                with reaching(self.url):
                    self._store.rm(part)

    def _keys(self, under: str = "") -> list[str]:
        """All that is at the place, or in its folder `under`, by its path in there."""
        root = f"{self._root}{under}"
        with reaching(self.url):
            found = self._store.find(root)
        return [path.removeprefix(f"{root}/") for path in found if path != root]  # some stores name a folder, too


def _folder_of(key: str) -> str:
    return key.partition("/")[0]


def _newest_first(names: "Iterator[str] | set[str]") -> list[str]:
    return sorted(names, key=step_of, reverse=True)
