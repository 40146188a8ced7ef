"""The S3 server for trying, what is in a store, and what isn't needed of it."""

import fsspec
import pytest


def test_the_server_keeps_what_it_had_when_it_is_killed(s3):
    path = s3.url("kept").removeprefix("s3://")
    s3.filesystem().pipe_file(path, b"as it was")

    s3.kill()
    s3.start()

    assert s3.filesystem().cat_file(path) == b"as it was"


def test_a_wrong_secret_is_refused_by_the_server(s3):
    stranger = fsspec.filesystem(
        "s3",
        key=s3.environment["AWS_ACCESS_KEY_ID"],
        secret="wrong",
        endpoint_url=s3.endpoint,
        skip_instance_cache=True,
    )

    with pytest.raises(PermissionError):
        stranger.ls(s3.bucket)
