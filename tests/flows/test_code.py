"""The code that a command runs, found without running it."""

from pathlib import Path

import grimp
import pytest
import yaml
from tiny import ROOT

from flows.code import code_of

FILES = {
    "room/__init__.py": '"""Says nothing."""\n',
    "room/plain.py": "import json, room.shared\n",
    "room/shared.py": "X = 1\n",
    "room/late.py": "def f():\n    from room import shared\n",
    "room/typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import room.shared\n",
    "room/name.py": "from room.shared import X\n",
    "room/circle.py": "import room.circular\n",
    "room/circular.py": "import room.circle\n",
    "room/broken.py": "def\n",
    "room/package/__init__.py": "from .inner import Y\n",
    "room/package/__main__.py": "from . import inner\nfrom ..shared import X\n",
    "room/package/inner.py": "Y = 1\n",
    "room/user.py": "import room.package.inner\n",
    "script.py": "from room import plain\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("exec python -m room.plain a", "plain shared"),
        ("python -m room.late", "late shared"),
        ("python -m room.typed", "typed shared"),
        ("python -m room.name", "name shared"),
        ("python -m room.circle", "circle circular"),
        ("python -m room.broken", "broken"),
        ("python -m room.package", "package/__init__ package/__main__ package/inner shared"),
        ("python -m room.user", "package/__init__ package/inner user"),
        ("python -m json.tool", ""),
        ("accelerate launch -m room.plain", "plain shared"),
        ("echo 'unclosed", ""),
        ("true", ""),
    ],
)
def test_code_is_followed(root, command, files):
    assert code_of(command, root) == {Path(f"room/{name}.py") for name in files.split()}


def test_a_script_is_followed_too(root):
    assert code_of("exec python script.py", root) == {Path("script.py"), Path("room/plain.py"), Path("room/shared.py")}


PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_it_finds_what_grimp_finds(stage):
    graph = grimp.build_graph("stages", cache_dir=None)
    start = {f"stages.{stage}", f"stages.{stage}.__main__"} & graph.modules
    modules = start | {module for each in start for module in graph.find_upstream_modules(each)}
    command = PIPELINE[stage].get("do", PIPELINE[stage])["cmd"]

    found = code_of(command, ROOT)

    files = {Path(*module.split(".")) for module in modules}
    expected = {path.with_suffix(".py") for path in files if (ROOT / path).with_suffix(".py").is_file()}
    assert {path for path in found if path.name != "__init__.py"} == expected
