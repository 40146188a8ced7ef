"""An exclusive lease on a key of an object store: of all who want it, on whatever machine, one has it.

    with take_lease("s3://bucket/prefix/lease") as lease:
        lease.check()  # before each write that two must not do

Every write of the key is conditional (If-None-Match to create it, If-Match to renew it or take it over), so the
store decides who was first. Its holder renews it every few seconds. Another one takes it over only after it has
itself seen the key stay the same for much longer: each counts by its own monotonic clock, no time is ever compared
with another machine's.
"""

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import IO, Any
from uuid import uuid4

import aiohttp
import botocore.exceptions  # type: ignore[import-untyped]
import s3fs  # type: ignore[import-untyped]

from stages.params import Refusal

log = logging.getLogger("pedigree")

RENEW_EVERY_SECONDS = 10.0
STALE_AFTER_SECONDS = 45.0
LOOKS = 45  # at the key while it is watched
RELEASE_SECONDS = 5.0
READS = 4  # of the key, when answers break off: nobody else asks for the rest of one again
# Short: a renewal that hangs is worth less than the next one.
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 5, "retries": {"max_attempts": 1}}
# What no other try will mend: S3's codes, and what its client says before it asks.
FINAL_CODES = {
    "401", "403", "404", "AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken",
    "InvalidAccessKeyId", "InvalidBucketName", "InvalidToken", "NoSuchBucket", "SignatureDoesNotMatch",
}  # fmt: skip
FINAL_ERRORS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.NoRegionError,
)
# Another write was first, or the key is gone. 409: Amazon, of two writes at the same moment.
NOT_MET = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey"}


class LeaseHeld(Refusal):
    """Another one holds the lease: `holder` says who, in a few words."""

    def __init__(self, url: str, holder: str) -> None:
        super().__init__(f"{url} is held by {holder}; wait for it, or stop it, and run again")
        self.holder = holder


class LeaseLost(RuntimeError):
    """Another one took the lease over, as this holder was not heard of for too long."""


class Unreachable(OSError):
    """The object store did not answer, or not now: worth another try later."""


class _NotMet(Exception):
    """The condition of a write didn't hold."""


@dataclass(frozen=True)
class _Found:
    """What is at the key: its version, whose it is, and how its holder is called."""

    etag: str
    owner: str
    holder: str


def take_lease(
    url: str,
    owner: str | None = None,
    renew_every: float | None = None,
    stale_after: float | None = None,
) -> "Lease":
    """The lease on the key `url` (`s3://BUCKET/KEY`), held until it is released, or the block ends.

    If another one holds it, that takes until it is next renewed; if its holder is dead, `stale_after` seconds.

    Args:
        owner: a name that no two living processes have, such as that of `owner_by_lock`. Who gives the name of
            a dead holder need not wait. Default: a new one.
        renew_every: seconds between two renewals. Default: RENEW_EVERY_SECONDS.
        stale_after: seconds without a renewal after which a holder counts as dead; several times as long.
            Default: STALE_AFTER_SECONDS.

    Raises:
        LeaseHeld: if another one holds it, and lives.
        Refusal: if the store can't hold a lease, or access to it is denied.
        Unreachable: if it doesn't answer.
    """
    key = _Key(url, owner or uuid4().hex)
    etag = _take(key, STALE_AFTER_SECONDS if stale_after is None else stale_after)
    try:
        _try_conditions(key)
    except BaseException:
        key.delete(etag)
        raise
    return Lease(key, etag, RENEW_EVERY_SECONDS if renew_every is None else renew_every)


def _take(key: "_Key", stale_after: float) -> str:
    """The version of `key` that this process has written into it, once nobody else holds it."""
    watched, since = None, 0.0
    while True:
        found = key.read()
        try:
            if found is None:
                return key.write(IfNoneMatch="*")
            if found.owner == key.owner or (watched == found.etag and monotonic() - since >= stale_after):
                return key.write(IfMatch=found.etag)
        except _NotMet:
            continue  # another one was quicker: look again
        if watched is None:
            log.info("%s is held by %s; looking if it is alive", key.url, found.holder)
            watched, since = found.etag, monotonic()
        elif watched != found.etag:
            raise LeaseHeld(key.url, found.holder)
        Event().wait(stale_after / LOOKS)


def _try_conditions(key: "_Key") -> None:
    """Refuse a store that writes whatever the condition is: two would hold the same lease there."""
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{uuid4().hex}"'}):
        with suppress(_NotMet):
            key.write(**condition)
            raise Refusal(
                f"{key.url}: this object store does not heed conditional writes ({next(iter(condition))}), "
                f"so it can't tell two writers apart; use another store"
            )


class Lease:
    """A lease that is held, and renewed by a thread. `lost` says whether another one has it now."""

    def __init__(self, key: "_Key", etag: str, renew_every: float) -> None:
        self.url, self.lost = key.url, False
        self._key, self._etag, self._renew_every = key, etag, renew_every
        self._writing, self._ended = Lock(), Event()
        self._thread = Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Renew it now, so that it is known to be held at this moment.

        Raises:
            LeaseLost: if another one has it.
            Unreachable, Refusal: if that can't be known now.
        """
        with self._writing:
            if self.lost or self._ended.is_set():
                raise LeaseLost(f"{self.url} is no longer held by this process")
            self._etag = self._renewed()

    def release(self) -> None:
        """Give it up; that is also the end if the store doesn't answer, as others see it stay the same."""
        self._ended.set()
        if not self._writing.acquire(timeout=RELEASE_SECONDS):
            return  # a renewal hangs
        with suppress(Unreachable, Refusal, _NotMet):
            if not self.lost:
                self._key.delete(self._etag)
        self._writing.release()

    def _renewed(self) -> str:
        etag = self._etag
        while True:
            try:
                return self._key.write(IfMatch=etag)
            except _NotMet:
                # A write whose answer was lost on the way was a write, though: look whose it is.
                found = self._key.read()
            if found is None or found.owner != self._key.owner:
                self.lost = True
                raise LeaseLost(f"{self.url} was taken over by {found.holder if found else 'one who is gone'}")
            etag = found.etag

    def _keep(self) -> None:
        failing = False
        while not self._ended.wait(self._renew_every):
            try:
                self.check()
                failing = False
            except LeaseLost as error:
                if not self._ended.is_set():
                    log.warning("%s", error)
                return
            except (Unreachable, Refusal) as error:
                if not failing:
                    log.warning("the lease can't be renewed now: %s", error)
                failing = True


class _Key:
    """The key in the store: read, written on a condition, deleted on a condition."""

    def __init__(self, url: str, owner: str) -> None:
        if not url.startswith("s3://") or not url.removeprefix("s3://").strip("/").count("/"):
            raise Refusal(f"{url}: a lease needs an S3 object store and a key in it (s3://BUCKET/KEY)")
        self.url, self.owner = url, owner
        self.holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._bucket, _, self._name = url.removeprefix("s3://").partition("/")
        # An instance of its own: its short timeouts are not for the files of others.
        for client in ("botocore", "aiobotocore"):  # they tell at each start where they read the credentials
            logging.getLogger(client).setLevel(logging.WARNING)
        self._store = s3fs.S3FileSystem(config_kwargs=TIMEOUTS, skip_instance_cache=True)
        self._store.retries = 2

    def read(self) -> _Found | None:
        """What is at the key, if anything."""
        for left in reversed(range(READS)):
            try:
                answer = self._call("get_object")
                with reaching(self.url), closing(answer["Body"]):
                    body = s3fs.core.sync(self._store.loop, answer["Body"].read)
                break
            except _NotMet:
                return None
            except Unreachable:
                if not left:
                    raise
        try:
            record = json.loads(body)
            return _Found(answer["ETag"], str(record["owner"]), str(record["holder"]))
        except (ValueError, TypeError, KeyError):
            raise Refusal(f"{self.url} holds something else than a lease; remove it, or name another key") from None

    def write(self, **condition: str) -> str:
        """Make the key this process's, and return its new version; no two versions are the same."""
        record = {"owner": self.owner, "holder": self.holder, "renewal": uuid4().hex}
        return str(self._call("put_object", Body=json.dumps(record).encode(), **condition)["ETag"])

    def delete(self, etag: str) -> None:
        """Remove the key, if it has the version `etag` still."""
        self._call("delete_object", IfMatch=etag)

    def _call(self, method: str, **arguments: Any) -> Any:
        with reaching(self.url):
            try:
                return self._store.call_s3(method, Bucket=self._bucket, Key=self._name, **arguments)
            except OSError as error:
                if _code(error) in NOT_MET:
                    raise _NotMet from error
                raise


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Say in one sentence what went wrong in the store at `url`, without what a client puts into its own.

    Raises:
        Refusal: if access is denied, or there is no such bucket.
        Unreachable: for what may be well in a while.
    """
    try:
        yield
    except (OSError, botocore.exceptions.BotoCoreError, aiohttp.ClientError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # of this machine's disk: no store's error is translated to these
        reason = _code(error) or type(error).__name__
        if reason in FINAL_CODES or isinstance(error, (*FINAL_ERRORS, PermissionError)):
            raise Refusal(
                f"{url}: access to the object store is refused ({reason}); check the bucket's name, AWS_ENDPOINT_URL "
                f"and the credentials in the environment"
            ) from None
        raise Unreachable(f"{url}: the object store does not answer ({reason})") from None


def _code(error: BaseException) -> str:
    """The store's own word for what was wrong, if it said one."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def owner_by_lock(file: IO[str]) -> str | None:
    """A name that nobody has but the process that has locked `file` (flock): no other file on earth has it.

    It is made of the running kernel, and of the file in it, so a copied file has another one. None where the
    kernel has no name.
    """
    kernel = Path("/proc/sys/kernel/random/boot_id")
    if not kernel.is_file():
        return None
    status = os.fstat(file.fileno())
    return f"{kernel.read_text(encoding='ascii').strip()}-{status.st_dev}-{status.st_ino}"
