"""The default build, made once: what the README promises of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

from lineage.builds import beside_commit
from lineage.report import write_report
from lineage.summary import Summary, read_summary

pytestmark = [pytest.mark.default_build, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def summary() -> Summary:
    """The default build, which is made if it isn't there."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["dvc", "repro"], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_summary(ROOT)


def test_every_data_digest_is_the_committed_one(summary):
    assert beside_commit(ROOT).startswith("Grade reached: ")


def test_every_document_has_a_fate(summary):
    assert len(summary.sources) == 6
    assert [source.unaccounted for source in summary.sources] == [0] * 6


def test_filters_and_dedup_have_work_to_do(summary):
    filtered = sum(sum((source.filtered or {}).values()) for source in summary.sources)
    duplicates = sum(sum((source.duplicates or {}).values()) for source in summary.sources)

    assert filtered > 500
    assert duplicates > 50


def test_the_model_beats_every_reference_but_the_one_that_holds_the_training_text(summary):
    scores = summary.evaluate["bits_per_byte"]

    assert scores["model"] < min(scores["untrained"], scores["order2"], scores["xz"])


def test_the_curve_over_checkpoints_falls(summary):
    rows = (ROOT / "plots/checkpoints.csv").read_text(encoding="utf-8").split()[1:]
    scores = [float(row.split(",")[1]) for row in rows]

    assert len(scores) >= 3
    assert scores[-1] == min(scores)


def test_the_review_site_holds_every_document_in_under_3_mb(summary, tmp_path):
    index = write_report(ROOT, tmp_path / "report")

    assert sum(path.stat().st_size for path in index.parent.iterdir()) < 3_000_000
    documents = f"All {sum(source.read for source in summary.sources):,} documents that were read are on this page"
    assert documents in index.with_name("documents.html").read_text(encoding="utf-8")


def test_the_document_that_the_readme_asks_for_is_followed_into_the_training(summary):
    done = subprocess.run(
        [sys.executable, "-m", "pedigree", "why", "speeches/1961-Kennedy-1.txt"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "trained on" in done.stdout
    assert "first seen" in done.stdout
