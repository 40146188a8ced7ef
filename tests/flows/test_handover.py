"""A stage is handed over: a commit of the working tree, the store, a machine that has nothing else, and back."""

import shutil
import subprocess
import sys
from threading import Event

import fsspec
import pytest
import yaml

from flows.places import Errand
from flows.places.errands import Errands
from flows.places.handover import commit_tree, make_errand
from flows.places.settings import KubernetesResources
from flows.stage import Children, ComeAgain, StageFailed, StageRefused
from flows.work import build_locally
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

ELSEWHERE = KubernetesResources(place="kubernetes", image="none")


class Node:
    """A machine that runs an errand at once, in a folder of its own, with nothing but the store's credentials."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = environment
        self.errands: list[Errand] = []

    def run(self, errand, resources, tell, stopping):
        self.errands.append(errand)
        self.done = self.command(errand.command())
        if self.done.returncode:
            raise StageFailed(self.done.stderr)

    def command(self, command):
        self.folder.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, capture_output=True, text=True,
            env={
                "PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PEDIGREE_FLOW_NODE_FOLDER": str(self.folder),
                "DVC_SITE_CACHE_DIR": str(self.folder / "site"), **self.environment,
            },
        )  # fmt: skip


@pytest.fixture
def stored(diamond, s3, monkeypatch):
    """The toy project as a git repository whose remote is in the S3 server."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    diamond.share(s3.url())
    return diamond


@pytest.fixture
def node(tmp_path, s3):
    return Node(tmp_path / "node", s3.environment)


def errands(node, root):
    """The errands of a build whose only other place is `node`."""
    made = Errands(root, Children(), Event())
    made._places["kubernetes"] = node
    return made


def silent(line):
    pass


def test_a_machine_with_nothing_but_the_store_runs_a_stage_and_it_is_restored_here(stored, node, tmp_path):
    build_locally(["left", "right"])
    (stored.root / "fate/bottom").write_text("chatter")  # untracked, and no stage depends on it: it stays here
    stored.change("bottom", "as it is in the working tree")
    before = stored.git("status", "--porcelain"), stored.git("log", "--all", "--format=%H")

    ended = errands(node, stored.root).run("bottom", ("left", "right"), ELSEWHERE, silent)

    assert ended.outcome == "restored"
    assert (stored.root / "out/bottom").read_text() == "as it is in the working tree"
    assert stored.pid("bottom") is None  # it never ran here
    (errand,) = node.errands
    assert "bottom" in node.done.stderr
    assert "ran in" in node.done.stderr
    assert (
        stored.git("status", "--porcelain").replace(" M dvc.lock\n", ""),
        stored.git("log", "--all", "--format=%H"),
    ) == before
    assert not list((node.folder / "clones").glob("*bottom*/"))  # the clone is gone, the cache is kept
    cached = {path.name for path in (node.folder / "cache").rglob("*") if path.is_file()}
    lock = yaml.safe_load((stored.root / "dvc.lock").read_text())["stages"]["bottom"]
    assert {out["md5"][2:] for out in lock["outs"]} <= cached
    with fsspec.open(f"{errand.remote}/handover/{errand.commit}/bottom.log", use_listings_cache=False) as log:
        assert b"Running stage 'bottom'" in log.read()

    shutil.rmtree(stored.root / ".dvc/cache")
    (stored.root / "out/bottom").unlink()
    (stored.root / "dvc.lock").unlink()
    again = errands(node, stored.root).run("bottom", ("left", "right"), ELSEWHERE, silent)

    assert again.outcome == "restored"
    assert len(node.errands) == 1  # its result was in the store
