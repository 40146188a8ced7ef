"""A toy project: a DAG of tiny stages, each with a fate that the test decides."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

# A stage does what fate/NAME says, word by word, and then writes its out.
STAGE = """
import os, signal, sys, time
from pathlib import Path

def save(signum, frame):
    Path("saved", name).touch()
    sys.exit(75)

name = sys.argv[1]
Path("pids", name).write_text(str(os.getpid()))
fate = Path("fate", name)
begin = time.time()
for word in fate.read_text().split() if fate.exists() else []:
    match word:
        case "left" | "right":  # waits for the other one to have begun
            while not Path("pids", word).exists():
                time.sleep(0.05)
                assert time.time() < begin + 30
        case "hang":
            signal.signal(signal.SIGTERM, save)
            time.sleep(60)
        case "refuse":
            print("error: the toy is broken; mend it", file=sys.stderr)
            sys.exit(2)
        case "crash":
            raise ZeroDivisionError("by toy")
        case "preempted":
            fate.unlink()
            sys.exit(75)
        case "chatter":
            print(*range(1000), sep="\\n")
Path("times", name).write_text(f"{begin} {time.time()}")
Path("out", name).write_text(Path("in", name).read_text() if Path("in", name).exists() else name)
"""


@dataclass
class Toy:
    """A DVC project in `root`, and what its stages do."""

    root: Path
    names: list[str] = field(default_factory=list)

    def fate(self, stage: str, *words: str) -> None:
        """From now on `stage` does this: left or right (wait for it), hang, refuse, crash, preempted, chatter."""
        (self.root / "fate" / stage).write_text(" ".join(words))

    def change(self, stage: str, text: str) -> None:
        """Give `stage` another input."""
        (self.root / "in" / stage).write_text(text)

    def times(self, stage: str) -> tuple[float, float]:
        """When `stage` began and ended, last time."""
        begin, end = (self.root / "times" / stage).read_text().split()
        return float(begin), float(end)

    def pid(self, stage: str) -> int | None:
        """The process of `stage`, if it has begun."""
        path = self.root / "pids" / stage
        return int(path.read_text()) if path.exists() and path.read_text() else None


def make_toy(root: Path, upstream: dict[str, list[str]]) -> Toy:
    """A project whose stages wait for each other as `upstream` says."""
    for folder in ("fate", "in", "out", "pids", "times", "saved", ".dvc"):
        (root / folder).mkdir(parents=True)
    stages = {}
    for name, before in upstream.items():
        (root / "in" / name).write_text(name)
        deps = ["stage.py", f"in/{name}", *(f"out/{each}" for each in before)]
        stages[name] = {"cmd": f"exec python stage.py {name}", "deps": deps, "outs": [f"out/{name}"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (root / "stage.py").write_text(STAGE)
    (root / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    return Toy(root, list(upstream))


@pytest.fixture
def diamond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """top -> left, right -> bottom, and `alone`; the working folder is the project's."""
    toy = make_toy(
        tmp_path / "toy",
        {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"], "alone": []},
    )
    monkeypatch.chdir(toy.root)
    return toy


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for name in [name for name in os.environ if name.startswith("PEDIGREE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """A Prefect server of this session's own, in a folder of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        with prefect_test_harness(server_startup_timeout=90):
            yield
