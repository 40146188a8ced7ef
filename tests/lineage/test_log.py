"""The log is what the registry says: which versions there are, which is the current one, and what each came to."""

import json
import shutil
import subprocess
import sys

import pytest

from flows.publication.versions import current, history, versions
from lineage.history import build_at
from lineage.log import print_log, references, rows
from stages.params import Refusal


def git(folder, *arguments):
    author = ["-c", "user.name=x", "-c", "user.email=x@y"]
    done = subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def tag(folder, name):
    git(folder, "tag", "--annotate", "--message", name, name, "HEAD")


def another_build(folder):
    """Commit a dvc.lock whose evaluation is another file, which nobody has."""
    lock = (folder / "dvc.lock").read_text()
    md5 = lock.split("- path: metrics/evaluate.json")[1].split("md5: ")[1].split()[0]
    (folder / "dvc.lock").write_text(lock.replace(md5, "a" * 32))
    git(folder, "commit", "--quiet", "--all", "--message", "another build")


@pytest.fixture(scope="module")
def published(committed, tmp_path_factory):
    """Two versions, of which the first is the current one again, a candidate, and a build that is none of them."""
    folder = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(committed.folder, folder, symlinks=True)
    for name in ("base@v1.0.0", "base#prod#1"):
        tag(folder, name)
    another_build(folder)
    for name in ("base@v1.1.0", "base#prod#2"):
        tag(folder, name)
    git(folder, "tag", "--annotate", "--message", "back", "base#prod#3", "base@v1.0.0^{}")
    git(folder, "tag", "nonsense")
    git(folder, "checkout", "--quiet", "-b", "candidate/0123456789ab")
    (folder / "dvc.lock").write_text((folder / "dvc.lock").read_text().replace("a" * 32, "b" * 32))
    git(folder, "commit", "--quiet", "--all", "--message", "worse")
    git(folder, "checkout", "--quiet", "main")
    (folder / "dvc.lock").write_text((folder / "dvc.lock").read_text().replace("a" * 32, "c" * 32))
    git(folder, "commit", "--quiet", "--all", "--message", "not published")
    return folder


def test_the_current_version_is_a_revision_like_any_other(published):
    assert build_at(published, "base@prod").commit == git(published, "rev-parse", "base@v1.0.0^{commit}")
    assert build_at(published, "base@v1.1.0").commit == git(published, "rev-parse", "base@v1.1.0^{commit}")
    for wanted in ("base@staging", "base"):
        with pytest.raises(Refusal, match=f"no commit {wanted} here"):
            build_at(published, wanted)


def test_each_version_has_the_status_that_the_registry_gives_it(published):
    assert {row.name: row.status for row in rows(published)} == {
        "v1.0.0": "current",
        "v1.1.0": "was current",
        "candidate/0123456789ab": "candidate",
    }


def test_it_is_the_registry_that_publication_reads(published):
    found = {each.name: each for each in references(published) if each.full.startswith("refs/tags")}

    assert {name: each.commit for name, each in found.items()} == {
        each.name: each.commit for each in versions(published)
    }
    assert [name for name, each in found.items() if each.status == "current"] == [current(published).name]
    assert {name for name, each in found.items() if "current" in each.status} == {
        each.name for each in history(published)
    }


def test_a_version_has_the_metrics_of_its_build(published, committed):
    [row] = [row for row in rows(published) if row.name == "v1.0.0"]
    evaluation, training = (committed.json(f"metrics/{name}.json") for name in ("evaluate", "pretrain"))

    assert (row.tokens, row.flops, row.parameters) == tuple(training[key] for key in ("tokens", "flops", "parameters"))
    assert row.bits_per_byte == evaluation["bits_per_byte"]["model"]
    assert {"low": row.low, "high": row.high} == evaluation["intervals"]["all"]
    assert row.unknown is None
    assert row.date.startswith("20")


def test_builds_that_were_not_published_are_told_if_one_wants(published):
    named = {row.name for row in rows(published)}

    others = [row for row in rows(published, with_all=True) if row.name not in named]

    assert [(row.name, row.status) for row in others] == [("main", "not published")]


def test_what_is_not_in_the_cache_is_unknown_and_named(published, capsys):
    [row] = [row for row in rows(published) if row.name == "v1.1.0"]

    print_log(root=published)

    assert row.bits_per_byte is None
    assert f"Unknown of v1.1.0: object {'a' * 32} of metrics/evaluate.json" in capsys.readouterr().out


def test_the_record_of_a_publication_knows_what_the_cache_lost(published, tmp_path):
    folder = tmp_path / "project"
    git(tmp_path, "clone", "--quiet", str(published), str(folder))
    record = folder / "records/base/v2.0.0.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"metrics": {"metrics/evaluate.json": {"bits_per_byte": {"model": 1.25}}}}))
    git(folder, "add", "records")
    git(folder, "commit", "--quiet", "--message", "v2.0.0")
    tag(folder, "base@v2.0.0")

    table = {row.name: row for row in rows(folder)}

    assert (table["v2.0.0"].bits_per_byte, table["v2.0.0"].unknown, table["v2.0.0"].status) == (1.25, None, "published")
    assert table["candidate/0123456789ab"].status == "candidate"  # a branch of the remote


def test_a_project_without_versions_says_how_to_publish(committed):
    done = committed.run(sys.executable, "-m", "pedigree", "log")
    everything = committed.run(sys.executable, "-m", "pedigree", "log", "--all", "--json")

    assert "Nothing is published yet: `pedigree publish` does it" in done.stdout
    assert [each["name"] for each in json.loads(everything.stdout)["builds"]] == ["main"]


def test_a_version_whose_commit_has_no_build_is_refused(repository):
    git(repository.folder, "rm", "--quiet", "--cached", "dvc.lock")
    git(repository.folder, "commit", "--quiet", "--message", "no build")
    tag(repository.folder, "base@v3.0.0")

    with pytest.raises(Refusal, match=r"has no dvc\.lock"):
        rows(repository.folder)
