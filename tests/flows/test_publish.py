"""A build becomes a version or a candidate, whoever is faster and whenever somebody is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from versioned import Clone, copy_of, make_clone

from flows.git import SECRET, upstream
from flows.publication.get import dvc_digest, get
from flows.publication.publish import outs_of, publish
from flows.publication.rollback import rollback
from flows.publication.versions import current, history
from flows.stage import StageFailed
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

PUBLISH = "from flows.publication.publish import publish; print(publish().sentence)"


@pytest.fixture(scope="module")
def unpublished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A built toy with an upstream and a remote; the tests work on copies."""
    clone = make_clone(tmp_path_factory.mktemp("toy"))
    clone.build()
    return clone


@pytest.fixture(scope="module")
def published(unpublished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The same, published as v1.0.0; and in its working tree a build that is better."""
    clone = copy_of(unpublished, tmp_path_factory.mktemp("toy") / "published")
    publish(root=clone.root)
    clone.build(wiki=1.9)
    return clone


@pytest.fixture
def new(unpublished: Clone, tmp_path: Path) -> Clone:
    """A build that nobody has published."""
    return copy_of(unpublished, tmp_path / "new")


@pytest.fixture
def better(published: Clone, tmp_path: Path) -> Clone:
    """A build that is better than the current version, v1.0.0."""
    return copy_of(published, tmp_path / "better")


@pytest.fixture(scope="module")
def published_twice(published: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The better build published, too, as v1.1.0."""
    clone = copy_of(published, tmp_path_factory.mktemp("toy") / "twice")
    publish(root=clone.root)
    return clone


@pytest.fixture
def two(published_twice: Clone, tmp_path: Path) -> Clone:
    """Two versions, v1.0.0 and v1.1.0, and the latter's build."""
    return copy_of(published_twice, tmp_path / "two")


def record(clone: Clone, revision: str, name: str) -> dict[str, object]:
    content: dict[str, object] = json.loads(clone.git("show", f"{revision}:records/base/{name}.json"))
    return content


def assert_whole(clone: Clone, name: str) -> None:
    """The version is upstream with all that belongs to it, and here."""
    assert {f"base@{name}", "base#prod#1"} <= set(clone.tags(there=True))
    assert clone.tags() == clone.tags(there=True)
    assert clone.head() == clone.head(there=True) == clone.git("rev-parse", f"base@{name}^{{commit}}")
    assert clone.git("status", "--porcelain") == ""
    assert record(clone, "main", name)["outs"] == outs_of(clone.root)


def test_a_build_becomes_a_version_with_a_record_and_tags(new):
    done = publish(root=new.root)

    assert (done.outcome, done.version) == ("published", "v1.0.0")
    assert_whole(new, "v1.0.0")
    assert new.tags() == ["base#prod#1", "base@v1.0.0"]
    assert new.git("show", "--name-only", "--format=", "HEAD").split() == ["dvc.lock", "records/base/v1.0.0.json"]
    written = record(new, "HEAD", "v1.0.0")
    assert (written["version"], written["parent"], written["reasons"]) == ("v1.0.0", None, [])
    assert written["metrics"]["metrics/evaluate.json"]["bits_per_byte"]["model"] == pytest.approx(1.87, abs=0.01)
    assert str(new.root.parent) not in json.dumps(written)


def test_what_is_published_is_not_published_again(two):
    before = two.git("show-ref")

    done = publish(root=two.root)

    assert (done.outcome, done.version) == ("idle", "v1.1.0")
    assert two.git("show-ref") == before


def test_a_better_build_is_compared_and_follows(better):
    done = publish(root=better.root)

    assert (done.outcome, done.version) == ("published", "v1.1.0")
    assert_whole(better, "v1.1.0")
    written = record(better, "HEAD", "v1.1.0")
    assert written["parent"] == "v1.0.0"
    assert [row["name"] for row in written["comparison"]] == ["all sources", "code", "wiki"]


def test_a_worse_build_is_left_on_a_branch_with_the_reasons(better):
    better.build(wiki=2.3)

    done = publish(root=better.root)
    again = publish(root=better.root)
    trial = publish("trial", better.root)

    assert done.outcome == again.outcome == "refused"
    assert (done.is_new, again.is_new) == (True, False)
    assert better.tags(there=True) == ["base#prod#1", "base#trial#2", "base@v1.0.0", "base@v1.1.0"]
    assert (trial.version, current(better.root).name) == ("v1.1.0", "v1.0.0")  # only prod is compared
    better.git("fetch", "--quiet", "origin")
    message = better.git("log", "-1", "--format=%B", f"origin/{done.candidate}")
    assert "wiki is worse: 2.4207 instead of 2.1207" in message
    assert record(better, f"origin/{done.candidate}", done.candidate)["reasons"] == list(done.comparison.reasons)
    better.git("checkout", "--quiet", "--force", f"origin/{done.candidate}")
    assert better.run("dvc", "status") == "Data and pipelines are up to date."


def test_without_a_remote_it_is_published_here_alone(new):
    new.run("dvc", "remote", "default", "--unset")
    new.git("commit", "--quiet", "-am", "no remote")

    done = publish(root=new.root)

    assert done.sentence.endswith("here alone, as DVC has no default remote")
    assert new.tags() == ["base#prod#1", "base@v1.0.0"]
    assert new.tags(there=True) == []


def test_what_was_published_without_an_upstream_is_pushed_with_the_next_version(new):
    new.git("branch", "--unset-upstream")
    alone = publish(root=new.root)
    assert (new.tags(), new.tags(there=True)) == (["base#prod#1", "base@v1.0.0"], [])
    assert new.git("status", "--porcelain") == ""
    new.git("branch", "--set-upstream-to", "origin/main")
    new.build(wiki=1.9)

    publish(root=new.root)

    assert alone.sentence.endswith("here alone, as the branch has no upstream")
    assert_whole(new, "v1.1.0")
    assert "base@v1.0.0" in new.tags(there=True)


def test_a_build_that_is_not_up_to_date_is_refused(new):
    new.bits("wiki", 1.0)
    new.pin()

    with pytest.raises(Refusal, match=r"the build is not up to date \(evaluate\)"):
        publish(root=new.root)


def test_other_changes_are_refused(new):
    (new.root / "notes").write_text("mine")

    with pytest.raises(Refusal, match="notes changed since the last commit"):
        publish(root=new.root)


def test_diverged_branches_are_refused(new):
    other = new.another("other")
    other.commit("notes", "theirs")
    other.git("push", "--quiet")
    new.commit("notes", "mine")

    with pytest.raises(Refusal, match="have diverged"):
        publish(root=new.root)


def test_data_that_is_not_in_the_remote_is_not_published(new):
    new.run("dvc", "remote", "modify", "store", "url", "/proc/nowhere")
    new.git("commit", "--quiet", "-am", "a remote that can't be written")

    with pytest.raises(StageFailed, match="push: "):
        publish(root=new.root)

    assert new.tags(there=True) == []


def test_a_detached_head_is_refused(new):
    new.git("checkout", "--quiet", "--detach")

    with pytest.raises(Refusal, match="is on no git branch"):
        publish(root=new.root)


def test_without_a_name_for_the_commit_it_is_refused_but_everyone_may_get_it(two, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    two.git("config", "--remove-section", "user")
    two.git("config", "user.useConfigOnly", "true")

    with pytest.raises(Refusal, match=r"set user\.name and user\.email"):
        publish(root=two.root)

    assert get("base@prod", tmp_path / "model", root=two.root).is_dir()
    with pytest.raises(Refusal, match="is no clone with a commit; name the git repository by --from"):
        get("base@prod", tmp_path / "none", root=tmp_path)


# ---- others ---------------------------------------------------------------------------------------------


def before_the_push(clone: Clone, command: str) -> None:
    """Have `command` run once, just before git pushes for the first time."""
    hook = clone.root / ".git/hooks/pre-push"
    hook.write_text(f"#!/bin/sh\ncat > /dev/null\n[ -e ../raced ] && exit 0\ntouch ../raced\n{command}\n")
    hook.chmod(0o755)


def test_whoever_loses_against_another_commit_publishes_on_top_of_it(better):
    other = better.another("other")
    other.commit("notes", "theirs")
    before_the_push(better, "env -u GIT_DIR git -C ../other push --quiet")

    done = publish(root=better.root)

    assert (done.outcome, done.version) == ("published", "v1.1.0")
    assert_whole(better, "v1.1.0")
    assert (better.root / "notes").read_text() == "theirs"
    assert better.git("rev-parse", "HEAD~1") == other.head()


def test_whoever_loses_against_other_code_leaves_a_candidate(better):
    other = better.another("other")
    other.commit("stages/new.py", "")
    before_the_push(better, "env -u GIT_DIR git -C ../other push --quiet")

    done = publish(root=better.root)

    assert done.outcome == "superseded"
    assert "the upstream's stages/new.py changed since this was built" in done.sentence
    assert better.head(there=True) == other.head()
    assert better.tags(there=True) == better.tags() == ["base#prod#1", "base@v1.0.0"]
    assert better.git("ls-remote", "origin", f"refs/heads/{done.candidate}")


def test_of_two_at_the_same_time_one_wins_and_nothing_is_lost(better):
    other = better.another("other")
    other.build(wiki=1.8)

    running = [
        subprocess.Popen([sys.executable, "-c", PUBLISH], cwd=clone.root, stdout=subprocess.PIPE, text=True)
        for clone in (better, other)
    ]
    said = sorted(process.communicate()[0].strip() for process in running)

    assert [process.returncode for process in running] == [0, 0]
    assert said[1] == "published as base@v1.1.0, stage prod"
    assert said[0].startswith("not published, it is the branch candidate/")
    assert better.tags(there=True) == ["base#prod#1", "base#prod#2", "base@v1.0.0", "base@v1.1.0"]
    assert better.git("ls-remote", "--heads", "origin").count("candidate/") == 1


def test_the_same_build_by_two_is_one_version(better):
    twin = copy_of(better, better.root.parent.parent / "twin")
    twin.git("remote", "set-url", "origin", str(better.root.parent / "upstream.git"))
    publish(root=twin.root)

    done = publish(root=better.root)

    assert (done.outcome, done.version) == ("idle", "v1.1.0")
    assert_whole(better, "v1.1.0")


def killed_at(clone: Clone, folder: Path, moment: str) -> int:
    """How a publication ends whose git kills it at a moment: `before 2 WORDS` is before its 2nd call with WORDS."""
    when, count, words = moment.split(" ", 2)
    folder.mkdir()
    real = shutil.which("git")
    (folder / "git").write_text(
        "#!/bin/sh\n"
        f'case "$*" in "{words}"*) echo >> {folder}/calls ;; *) exec {real} "$@" ;; esac\n'
        f'[ "$(wc -l < {folder}/calls)" = {count} ] || exec {real} "$@"\n'
        f'[ {when} = before ] || {real} "$@"\n'
        "kill -9 $PPID\n"
    )
    (folder / "git").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run([sys.executable, "-c", PUBLISH], cwd=clone.root, env=os.environ | {"PATH": path}).returncode


@pytest.mark.parametrize(
    "moments",
    [
        ["before 2 for-each-ref --format=%(taggerdate", "before 1 push", "after 1 push"],
        ["after 1 update-ref refs/heads/main"],
    ],
    ids=["until it is pushed", "when it is pushed"],
)
def test_a_publication_that_is_killed_shows_no_half_and_is_finished_by_the_next(better, tmp_path, moments):
    first = better.head(there=True)

    for number, moment in enumerate(moments):
        assert killed_at(better, tmp_path / f"bin{number}", moment) == -signal.SIGKILL
        there = better.tags(there=True)
        assert there in (["base#prod#1", "base@v1.0.0"], ["base#prod#1", "base#prod#2", "base@v1.0.0", "base@v1.1.0"])
        assert (len(there) == 4) == (better.head(there=True) != first)
    done = publish(root=better.root)

    assert (done.outcome, done.version) == ("idle", "v1.1.0")
    assert_whole(better, "v1.1.0")
    assert len(better.tags(there=True)) == 4


# ---- secrets ----------------------------------------------------------------------------------------------


def test_a_token_in_the_url_of_the_upstream_is_never_shown(new, caplog):
    new.git("remote", "set-url", "origin", "http://someone:s3cr3t-token@127.0.0.1:1/toy.git")

    with pytest.raises(Refusal, match="git ls-remote failed") as refused:
        publish(root=new.root)

    assert "s3cr3t-token" not in str(refused.value) + caplog.text
    assert SECRET.sub("***@", "at http://me:word@host/x, ssh://me@host") == "at http://***@host/x, ssh://***@host"


# ---- get and rollback -------------------------------------------------------------------------------------


def test_a_version_is_got_by_name_and_compared_with_its_digest(two, tmp_path):
    now = get("base@prod", tmp_path / "now", root=two.root)
    old = get("v1.0.0", tmp_path / "old", url=str(two.root.parent / "upstream.git"))

    assert now.joinpath("weights").read_text() != old.joinpath("weights").read_text()
    assert dvc_digest(now) == outs_of(two.root)["models/base"]
    with pytest.raises(Refusal, match="now exists"):
        get("base@prod", now, root=two.root)
    with pytest.raises(Refusal, match=r"there is no base@v7\.0\.0 here \(versions: v1\.0\.0, v1\.1\.0\)"):
        get("base@v7.0.0", tmp_path / "none", root=two.root)
    with pytest.raises(Refusal, match="names no version"):
        get("base@1.0", tmp_path / "none", root=two.root)


def test_another_machine_gets_it_with_nothing_but_git_and_the_store(s3, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    url = s3.url("dvc")
    clone = make_clone(tmp_path / "here", url)
    clone.build()
    publish(root=clone.root)
    there = Clone(tmp_path / "there")
    there.root.mkdir()
    repository = str(tmp_path / "here/upstream.git")
    expected = (clone.root / "models/base/weights").read_text()

    there.run("dvc", "artifacts", "get", repository, "base", "--stage", "prod", "-o", "by-dvc")
    there.run("pedigree", "get", "base@v1.0.0", "--from", repository, "--out", "by-us")

    assert (there.root / "by-dvc/weights").read_text() == (there.root / "by-us/weights").read_text() == expected
    store = s3.filesystem()
    [weights] = [
        path for path in store.find(url.removeprefix("s3://") + "/files") if store.cat(path) == expected.encode()
    ]
    store.pipe(weights, b"9" * len(expected))
    with pytest.raises(Refusal, match=r"the digest of models/base is .*, published was"):
        get("base@prod", there.root / "damaged", url=repository)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-this-one")
    with pytest.raises(Refusal, match=r"can't be got .*AWS_SECRET_ACCESS_KEY") as refused:
        get("base@prod", there.root / "refused", url=repository)
    assert "not-this-one" not in str(refused.value)
    assert sorted(path.name for path in there.root.iterdir()) == ["by-dvc", "by-us"]


def test_a_rollback_makes_the_version_before_the_current_one_for_dvc_too(two, tmp_path):
    done = rollback(root=two.root)

    assert str(done) == "base@v1.1.0 was base@prod; base@v1.0.0 is now"
    assert [version.name for version in history(two.root)] == ["v1.0.0", "v1.1.0", "v1.0.0"]
    assert two.tags(there=True) == two.tags()
    upstream_url = str(two.root.parent / "upstream.git")
    two.run("dvc", "artifacts", "get", upstream_url, "base", "--stage", "prod", "-o", str(tmp_path / "model"))
    old = get("v1.0.0", tmp_path / "old", upstream_url)
    assert (tmp_path / "model/weights").read_text() == (old / "weights").read_text()


def test_a_rollback_says_what_it_cannot_do(better):
    with pytest.raises(Refusal, match=r"no version before base@v1\.0\.0 was base@prod"):
        rollback(root=better.root)
    with pytest.raises(Refusal, match=r"base@v1\.0\.0 is base@prod already"):
        rollback("base@v1.0.0", better.root)


def test_a_version_that_was_rolled_back_is_not_promoted_again(two):
    rollback(root=two.root)

    done = publish(root=two.root)

    assert (done.outcome, done.version) == ("idle", "v1.1.0")
    assert current(two.root).name == "v1.0.0"


def test_of_two_rollbacks_the_later_one_holds(two):
    other = two.another("other")
    rollback("v1.0.0", other.root)

    done = rollback("v1.1.0", two.root)

    assert (done.before.name, done.now.name) == ("v1.0.0", "v1.1.0")
    assert two.tags(there=True) == two.tags()


def test_a_clock_before_the_newest_tag_is_refused(better):
    date = f"{int(time.time()) + 3600} +0000"
    better.run("git", "tag", "-a", "base@v9.0.0", "-m", "later", f"{better.head()}", GIT_COMMITTER_DATE=date)

    with pytest.raises(Refusal, match="the clock of this machine stands before the newest version's tag"):
        publish(root=better.root)


def test_a_branch_without_upstream_has_none(new):
    assert upstream(new.root).branch == "refs/heads/main"
    new.git("branch", "--unset-upstream")
    assert upstream(new.root) is None
