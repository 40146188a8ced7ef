"""Builds with a remote in a real S3 server: what is pushed, what is downloaded, and what goes wrong on the way."""

import pytest
from stored import Clone, make_clone


@pytest.fixture
def toy(tmp_path, s3) -> Clone:
    return make_clone(tmp_path / "toy", s3.url("dvc"), s3.environment)


@pytest.fixture
def pushed(toy) -> Clone:
    """Built, pushed and committed."""
    done = toy.build()
    assert done.returncode == 0, done.stderr
    toy.commit()
    return toy


def test_a_build_pushes_what_it_made_and_a_fresh_clone_only_downloads(pushed, tmp_path):
    fresh = pushed.clone(tmp_path / "fresh")

    done = fresh.build()

    assert done.stdout == "3 stages: 3 restored\n", done.stderr
    assert pushed.runs() == ["letters", "numbers", "total"]  # once each
    assert fresh.good("git", "status", "--porcelain") == ""


def test_dvc_itself_rebuilds_a_fresh_clone_by_downloading(pushed, tmp_path):
    fresh = pushed.clone(tmp_path / "fresh")

    fresh.good("dvc", "repro", "--pull")

    assert pushed.runs() == ["letters", "numbers", "total"]
    assert fresh.good("git", "status", "--porcelain") == ""
