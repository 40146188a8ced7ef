"""The data stages make the same bytes wherever they run: one worker, several, a Dask cluster, and after any kill."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from servers.dask import Dask, cluster_in
from servers.slurm import until
from tiny import Project, make_project

from stages.documents import read_manifest

FOLDERS = ("data/extract/scripts", "data/filter/scripts")


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory) -> Project:
    """A tiny project whose source of scripts is downloaded, and is four shards."""
    project = make_project(tmp_path_factory.mktemp("scale") / "project")
    project.set("sources.scripts.extract.shard_bytes", 15_000)
    assert project.stage("download", "scripts").returncode == 0
    return project


@pytest.fixture(scope="module")
def cluster(downloaded) -> Iterator[Dask]:
    with cluster_in(downloaded.folder) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(downloaded) -> list[bytes]:
    """What one worker makes."""
    return made(downloaded, workers=1)


def made(project: Project, *stages: str, **settings: object) -> list[bytes]:
    """Run `stages` (extract and filter) on the scripts; the manifests, which hold the digest of every shard."""
    for stage in stages or ("extract", "filter"):
        shutil.rmtree(project.folder / "data" / stage / "scripts", ignore_errors=True)
        done = project.stage(stage, "scripts", **settings)
        assert done.returncode == 0, done.stderr
    return manifests(project)


def manifests(project: Project) -> list[bytes]:
    """What the stages have written, which must be that alone."""
    for folder in FOLDERS:
        listed = {entry["path"] for entry in read_manifest(project.folder / folder)["shards"]}
        assert {path.name for path in (project.folder / folder).iterdir()} == {*listed, "manifest.json"}
    return [(project.folder / folder / "manifest.json").read_bytes() for folder in FOLDERS]


def begin(project: Project, stage: str, **settings: object) -> subprocess.Popen[str]:
    """A stage that runs until it is killed, or done."""
    shutil.rmtree(project.folder / "data" / stage / "scripts", ignore_errors=True)
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", "scripts"],
        cwd=project.folder,
        env=project.environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
    )


def written(project: Project) -> int:
    """How many shards of documents are there."""
    return len(list((project.folder / FOLDERS[0]).glob("documents-*.parquet")))


def test_four_workers_make_the_same_bytes(downloaded, expected):
    assert made(downloaded, workers=4) == expected


def test_a_dask_cluster_makes_the_same_bytes(downloaded, expected, cluster):
    assert made(downloaded, dask=cluster.address) == expected


def test_a_worker_that_is_killed_costs_its_task_and_no_byte(downloaded, expected, cluster):
    running = begin(downloaded, "extract", dask=cluster.address)
    until(lambda: written(downloaded) >= 1 and cluster.busy(), 60)

    for worker in cluster.busy()[:1]:
        os.kill(worker, signal.SIGKILL)

    said = running.communicate(timeout=120)[1]
    assert running.returncode == 0, said
    assert manifests(downloaded) == expected


def test_a_stage_that_is_killed_takes_its_tasks_with_it_and_is_done_by_the_next_run(downloaded, expected, cluster):
    running = begin(downloaded, "extract", dask=cluster.address)
    until(lambda: written(downloaded) >= 1 and cluster.busy(), 60)

    running.kill()
    running.communicate()

    until(lambda: not cluster.busy(), 10)
    assert not (downloaded.folder / FOLDERS[0] / "manifest.json").exists()
    assert made(downloaded, "extract", dask=cluster.address) == expected


def test_a_stage_that_is_killed_among_its_own_workers_is_done_by_the_next_run(downloaded, expected):
    running = begin(downloaded, "extract", workers=2)
    until(lambda: written(downloaded) >= 1, 60)

    running.kill()
    running.communicate()

    assert made(downloaded, "extract", workers=2) == expected


@pytest.mark.long
def test_a_cluster_that_slurm_gives_makes_the_same_bytes(downloaded, expected, slurm, monkeypatch):
    for name, value in {**slurm.environment, "DASK_JOBQUEUE__SLURM__CORES": "1"}.items():
        monkeypatch.setenv(name, value)
    refused = downloaded.stage("extract", "scripts", dask="slurm:2")
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__MEMORY", "400MB")

    assert "PEDIGREE_DASK is slurm:2, and" in refused.stderr.splitlines()[-1]
    assert made(downloaded, "extract", dask="slurm:2") == expected
    assert slurm.ask("squeue", "-h", "-t", "running").split() == []


def test_what_a_task_refuses_is_one_sentence(downloaded, cluster):
    shard = next((downloaded.folder / FOLDERS[0]).glob("signals-*.parquet"))
    shard.write_bytes(b"x" * shard.stat().st_size)

    done = downloaded.stage("filter", "scripts", dask=cluster.address)

    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert f"{shard.name} can't be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("dask", "sentence"),
    [
        ("tcp://127.0.0.1:9", "PEDIGREE_DASK: no scheduler answers at tcp://127.0.0.1:9"),
        ("slurm", "PEDIGREE_DASK is 'slurm'; give slurm:JOBS"),
    ],
)
def test_a_cluster_that_is_none_is_refused(downloaded, monkeypatch, dask, sentence):
    done = downloaded.stage("extract", "scripts", dask=dask)

    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
