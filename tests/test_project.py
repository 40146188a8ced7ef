"""The project is true to its own description."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from tiny import ROOT

from flows.check import SOURCE_MODELS, STAGE_MODELS
from flows.code import code_of, is_covered

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = list(PIPELINE)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def body(stage: str) -> dict[str, object]:
    """What dvc.yaml says of `stage`; of one that is there for each source, of any of them."""
    return PIPELINE[stage].get("do", PIPELINE[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_imports(stage):
    deps = set(body(stage)["deps"])

    for path in code_of(body(stage)["cmd"], ROOT):
        assert is_covered(path, deps), f"{stage} imports {path}: add it to its deps"


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_a_stage_depends_on_exists_and_is_imported(stage):
    code = code_of(body(stage)["cmd"], ROOT)

    for dependency in body(stage)["deps"]:
        if dependency.startswith("stages/"):
            assert (ROOT / dependency).exists()
            assert any(is_covered(path, {dependency}) for path in code), f"{stage} doesn't import {dependency}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_executed_without_a_shell_and_by_its_module(stage):
    assert re.fullmatch(rf"exec python -m stages\.{stage}( \$\{{key\}})?", body(stage)["cmd"])


def test_no_out_is_kept_between_runs_or_out_of_the_cache():
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")

    assert not re.search(r"persist:|cache: *false|always_changed:", text)


def test_every_stage_has_its_params_checked():
    assert {"download", *SOURCE_MODELS, *STAGE_MODELS} == set(STAGES)


def tree() -> list[str]:
    """The paths in the README's tree."""
    block = README.split("## The tree")[1].split("```")[1]
    return [line.split()[0] for line in block.splitlines() if line.strip()]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.splitlines()


def test_every_path_in_the_readmes_tree_exists():
    for path in tree():
        assert (ROOT / path).exists(), path


def test_every_module_stands_in_the_readmes_tree():
    rooms = ("stages/", "flows/", "lineage/", "plan/", "forecast/", "ladder/", "presets/", "infra/", "benchmarks/")
    modules = [path for path in tracked() if path.startswith(rooms) and not path.endswith("__init__.py")]

    assert modules
    for path in modules:
        assert any(path == each or (each.endswith("/") and path.startswith(each)) for each in tree()), path


def commands() -> list[str]:
    """The commands in the README's shell blocks, but for those of its week (tests/flows/test_weekly.py)."""
    before, rest = README.split("## Run it every week\n")
    blocks = re.findall(r"```sh\n(.*?)```", before + rest.split("\n## ", 1)[1], flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("git clone", "cd ", "#"))]


SEEN_ELSEWHERE = {
    "make repro",  # tests/test_default_build.py
    "make test",  # this
    "make test-long",  # tests/flows
    "make test-build",  # tests/test_default_build.py
    "make verify",  # as long as a build; what it compares is in tests/lineage, the clone in tests/flows
    "make bench",  # minutes; installs its peers
    "make check",  # CI
    "pedigree why speeches/1961-Kennedy-1.txt",  # tests/test_default_build.py: the tiny corpus has no speeches
}


@pytest.mark.parametrize("command", sorted({line for line in commands() if line not in SEEN_ELSEWHERE}))
def test_every_command_of_the_readme_runs(repository, command):
    for name in ("Makefile", "README.md"):
        (repository.folder / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")

    done = repository.run("sh", "-c", command)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", sorted(each for each in SEEN_ELSEWHERE & set(commands()) if each.startswith("make"))
)
def test_every_make_target_of_the_readme_exists(command):
    done = subprocess.run(["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_the_document_that_docs_follow_is_found_in_a_build(copy):
    page = (ROOT / "docs/stages.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0].replace('source = "speeches"', 'source = "stories"')
    # The tiny corpus has no wheels.
    code = "\n".join(line for line in code.splitlines() if not line.startswith("print(ZipFile("))

    done = copy.run(sys.executable, "-c", code)

    assert done.returncode == 0, done.stderr
    assert "step" in done.stdout


def test_nothing_here_names_a_machine_or_a_host():
    pattern = re.compile("/" + "work/|/" + "root/|" + "py" + r"pi\.org|registry\.npm" + "js")
    for path in tracked():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        assert not pattern.search(text), path
