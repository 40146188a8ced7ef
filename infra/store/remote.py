"""The DVC remote of a project: where its objects are, and what a store says when it doesn't give them.

REMOTE/files/md5/12/34567…   an object, named by its digest; a folder's list of files ends in .dir
REMOTE/runs/12/1234…/5678…   an entry of the run-cache: what a stage made of its inputs
"""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_objects.fs.errors import ConfigError

from stages.params import Refusal

CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the instance"
# What botocore, aiohttp and s3fs raise when a server isn't there, breaks off, or takes too long; by name, as
# they share no base but Exception.
_GONE = {
    "EndpointConnectionError", "ConnectionError", "ConnectionClosedError", "ConnectTimeoutError", "ReadTimeoutError",
    "HTTPClientError", "IncompleteReadError", "ResponseStreamingError", "ProxyConnectionError", "SSLError",
    "ClientPayloadError", "ClientConnectionError", "ServerDisconnectedError", "ClientConnectorError",
    "FSTimeoutError", "TimeoutError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError",
}  # fmt: skip
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"}
_BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "502", "503", "504"}


class Unreachable(Refusal):
    """The store didn't answer, or said that it is busy: worth another try, later."""


@dataclass(frozen=True)
class Remote:
    """The default remote of a project."""

    name: str
    fs: Any  # DVC's file system: fsspec, with the endpoint and the credentials of the environment
    path: str

    @property
    def url(self) -> str:
        """Where it is, as .dvc/config has it."""
        return str(self.fs.unstrip_protocol(self.path))

    @property
    def is_s3(self) -> bool:
        """Whether it is an object store that speaks S3."""
        return bool(self.fs.protocol == "s3")

    @property
    def place(self) -> str:
        """Its name, URL and host, for a sentence; no secret is in it."""
        host = f" at {urlsplit(self._endpoint).netloc.rpartition('@')[2]}" if self.is_s3 else ""
        return f"the remote {self.name} ({self.url}{host})"

    @property
    def _endpoint(self) -> str:
        return str(self.fs.fs.s3.meta.endpoint_url)

    def object(self, md5: str) -> str:
        """The path of the object with this digest."""
        return f"{self.path}/files/md5/{md5[:2]}/{md5[2:]}"

    def find(self, folder: str) -> dict[str, dict[str, Any]]:
        """Every file below `folder` of the remote, by path: `size`, `LastModified`. One request for 1000 files."""
        self.fs.fs.invalidate_cache()
        found = self.fs.fs.find(f"{self.path}/{folder}", detail=True)
        if not isinstance(found, dict):  # DVC's own local file system lists names only
            found = {path: {**self.fs.fs.info(path), "LastModified": self.fs.fs.info(path)["mtime"]} for path in found}
        names = {str(path).lstrip("/") if self.is_s3 else str(path): info for path, info in found.items()}
        # SeaweedFS lists a folder that has become empty as a file.
        return {path: info for path, info in names.items() if path.startswith(f"{self.path}/{folder}/")}

    def probe(self) -> None:
        """Nothing, if the store answers and lets these credentials read.

        Raises:
            Refusal, Unreachable: why it doesn't.
        """
        with explained(self):
            if self.is_s3:
                bucket, _, prefix = self.path.partition("/")
                self.fs.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)


def default_remote(root: Path = Path()) -> Remote | None:
    """The remote that `dvc push` takes, if the project has one.

    Raises:
        Refusal: if .dvc/config names one that can't be opened.
    """
    try:
        with Repo(str(root)) as repo:
            return remote_of(repo)
    except (DvcException, ConfigError) as error:
        raise Refusal(f"DVC can't open the default remote: {' '.join(str(error).split())}") from error


def remote_of(repo: Repo) -> Remote | None:
    """The default remote of an open project."""
    name = repo.config["core"].get("remote")
    if not name:
        return None
    with _naming(name):
        remote = repo.cloud.get_remote(name)
        return Remote(name, remote.fs, str(remote.path).rstrip("/"))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which remote it was that lacks credentials: an S3 client is made with them."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in _NO_CREDENTIALS:
            raise Refusal(f"there are no credentials for the remote {name}; give {CREDENTIALS}") from None
        raise


@contextmanager
def explained(remote: Remote) -> Iterator[None]:
    """Turn what a store or its client says in the block into one sentence.

    Raises:
        Refusal: credentials that it doesn't take, or a bucket that isn't there.
        Unreachable: it isn't there, breaks off, or is busy.
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        if refusal := explain(error, remote):
            raise refusal from None
        raise


def explain(error: BaseException, remote: Remote) -> Refusal | None:
    """The sentence for `error`, if it is the store's; in words of our own, as theirs may repeat a key."""
    chain = list(_chain(error))
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    codes = {code for each in chain if (code := _code(each))}
    if names & _NO_CREDENTIALS:
        return Refusal(f"there are no credentials for {remote.place}; give {CREDENTIALS}")
    if isinstance(error, PermissionError):
        said = f" ({', '.join(sorted(codes))})" if codes else ""
        return Refusal(f"{remote.place} refuses these credentials{said}; correct {CREDENTIALS}")
    if "NoSuchBucket" in codes:
        return Refusal(f"{remote.place}: there is no such bucket; make it, or correct the URL in .dvc/config")
    if codes & _BUSY:
        return Unreachable(f"{remote.place} is busy ({', '.join(sorted(codes & _BUSY))})")
    if names & _GONE or getattr(error, "errno", None) in (errno.EREMOTEIO, errno.EBUSY, errno.EIO):
        return Unreachable(f"{remote.place} does not answer ({type(error).__name__}); see that it is up, and its URL")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def digest_of(path: Path) -> str:
    """The md5 of a file, by which DVC names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
