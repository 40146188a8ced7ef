"""A build of the committed files from nothing."""

import subprocess

import pytest

from flows.rebuild import as_committed, rebuild
from flows.work import build_locally
from lineage.builds import compare, print_verdict
from stages.params import Refusal

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def git(root, *arguments):
    author = ["-c", "user.name=toy", "-c", "user.email=toy@localhost"]
    subprocess.run(["git", *author, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def committed(diamond):
    """The toy project, built and committed, with a scratch of its own."""
    (diamond.root / ".gitignore").write_text(
        "/out/*\n/pids/*\n/times/*\n/logs/\n/scratch/\n/.dvc/tmp\n/.dvc/cache\n!.keep\n"
    )
    for folder in ("fate", "out", "pids", "times", "saved"):
        (diamond.root / folder / ".keep").touch()
    (diamond.root / "scratch/download").mkdir(parents=True)
    (diamond.root / "scratch/pretrain").mkdir()
    build_locally(["left", "alone"])
    git(diamond.root, "init", "--quiet")
    git(diamond.root, "add", ".")
    git(diamond.root, "commit", "--quiet", "--message", "toy")
    return diamond


def test_the_clone_is_built_from_nothing_and_is_gone_afterwards(committed, capsys, caplog):
    (committed.root / "in/left").write_text("not committed")

    with caplog.at_level("INFO", "pedigree.flows"), rebuild(targets=["left", "alone"]) as clone:
        assert "1 uncommitted changes are not part of the copy" in caplog.text
        assert caplog.text.count(" ran in ") == 3  # none was restored
        assert sorted(path.name for path in (clone / "scratch").iterdir()) == ["download"]
        assert (clone / "in/left").read_text() == "left"
        assert print_verdict(committed.root, clone) == 0

    assert not clone.exists()
    assert "every digest is equal" in capsys.readouterr().out


def test_a_kept_folder_must_be_empty(committed, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()

    with pytest.raises(Refusal, match="kept is not empty; name a new folder for --keep"), rebuild(tmp_path / "kept"):
        pass


def test_a_folder_without_git_is_refused(diamond):
    with pytest.raises(Refusal, match=r"git rev-parse failed in .*not a git repository"), rebuild():
        pass


def test_an_older_commit_is_built_again_and_compared_with_its_own_lock(committed):
    git(committed.root, "tag", "base@v1.0.0")
    committed.change("left", "of a later version")
    build_locally(["left", "alone"])
    git(committed.root, "commit", "--quiet", "--all", "--message", "later")

    with as_committed("base@v1.0.0") as before, rebuild(targets=["left", "alone"], rev="base@v1.0.0") as clone:
        assert (clone / "in/left").read_text() == "left"
        assert all(pair.equal for pair in compare(before, clone))
        assert [pair.out.path for pair in compare(committed.root, clone) if not pair.equal] == ["out/left"]

    assert not before.exists()


def test_a_commit_that_is_not_there_is_refused(committed):
    with pytest.raises(Refusal, match="git rev-parse failed"), as_committed("base@v9.9.9"):
        pass
