"""The commands, as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def pedigree(*arguments, cwd=PROJECT, **environment):
    """Run a command, without the colours and boxes that a terminal would have."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "pedigree.py"), *arguments],
        cwd=cwd, env=os.environ | {"TERM": "dumb", "COLUMNS": "200"} | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["summary"], ["verify"]])
def test_help_has_an_example(command):
    done = pedigree(*command, "--help")

    assert done.returncode == 0
    assert "Example: pedigree " + " ".join(command) in done.stdout


def test_a_refusal_is_one_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "params.yaml").write_text("sources: {wiki: {}}\n")

    done = pedigree("summary", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr == "error: nothing is built here yet; run `dvc repro` or `pedigree run`\n"


def test_a_wrong_parameter_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "params.yaml").write_text("sources: {}\n")

    done = pedigree("run", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml: sources must map at least one name")
    assert not (tmp_path / "logs").exists()


def test_the_console_script_is_this_command_line():
    done = pedigree("check")

    assert done.returncode == 0, done.stderr
    assert "sections are valid" in done.stdout


def test_the_summary_as_json_is_json(tmp_path):
    (tmp_path / "params.yaml").write_text("sources: {wiki: {}}\n")
    manifest = tmp_path / "data/extract/wiki/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"counts": {"read": 3, "kept": 3, "dropped": {}}, "shards": []}))

    done = pedigree("summary", "--json", cwd=tmp_path)

    assert json.loads(done.stdout)["sources"][0]["read"] == 3
