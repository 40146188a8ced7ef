"""A toy project: a DAG of tiny stages, each with a fate that the test decides."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import pytest
import yaml
from servers.prefect_server import die_with_us

PROJECT = Path(__file__).parents[2]

# A stage does what fate/NAME says, word by word, and then writes its out.
STAGE = """
import os, signal, sys, time
from pathlib import Path

def save(signum, frame):
    Path("saved", name).touch()
    sys.exit(75)

name = sys.argv[1]
for folder in ("pids", "times", "saved", "out", "runs"):  # a clone has none of them
    os.makedirs(folder, exist_ok=True)
fate = Path("fate", name)
words = fate.read_text().split() if fate.exists() else []
if "hang" in words:  # whoever sees its pid may signal it
    signal.signal(signal.SIGTERM, save)
Path("pids", name).write_text(str(os.getpid()))
with open(Path("runs", name), "a") as runs:
    runs.write("x")
begin = time.time()
for word in words:
    match word:
        case "left" | "right":  # waits for the other one to have begun
            while not Path("pids", word).exists():
                time.sleep(0.05)
                assert time.time() < begin + 30
        case "hang":
            time.sleep(60)
        case "refuse":
            print("error: the toy is broken; mend it", file=sys.stderr)
            sys.exit(2)
        case "crash":
            raise ZeroDivisionError("by toy")
        case "preempted":
            fate.unlink()
            sys.exit(75)
        case "train":  # until it is stopped, and then to the end
            state = Path(os.environ["PEDIGREE_SCRATCH"], name)
            state.parent.mkdir(parents=True, exist_ok=True)
            with state.open("a") as file:
                print("began on", os.environ.get("SLURMD_NODENAME"), file=file)
            if "saved" not in state.read_text():
                signal.signal(signal.SIGTERM, lambda *_: (state.open("a").write("saved\\n"), sys.exit(75)))
                Path(state.parent, "trains").touch()
                time.sleep(120)
        case "meet":  # one process on each of two machines
            rank = os.environ["PEDIGREE_LAUNCH"].partition("--machine_rank ")[2]
            met = Path(os.environ["PEDIGREE_SCRATCH"], "met")
            met.mkdir(parents=True, exist_ok=True)
            (met / rank).write_text(os.environ["SLURMD_NODENAME"] + " " + os.environ["PEDIGREE_LAUNCH"])
            while len(list(met.iterdir())) < 2:
                time.sleep(0.05)
                assert time.time() < begin + 120
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

    def start_build(
        self, *targets: str, log: str = "build.log", prefect: bool = False, **environment: str
    ) -> Popen[bytes]:
        """`pedigree run` in a process of its own, which says all to the file `log`, with more variables."""
        start = "build_with_prefect" if prefect else "build_locally"
        program = (
            "from flows.terminal import build_with_prefect, watched; from flows.work import build_locally; "
            f"watched(); {start}({list(targets)})"
        )
        with (self.root / log).open("wb") as out:
            return Popen(
                [sys.executable, "-c", program],
                cwd=self.root, env=os.environ | {"PYTHONPATH": str(PROJECT), **environment}, stderr=out, stdout=out,
                preexec_fn=die_with_us,
            )  # fmt: skip

    def said(self, log: str = "build.log") -> str:
        """What a build has said so far."""
        return (self.root / log).read_text()

    def runs(self, stage: str) -> int:
        """How often `stage` was run."""
        path = self.root / "runs" / stage
        return len(path.read_text()) if path.exists() else 0

    def pid(self, stage: str) -> int | None:
        """The process of `stage`, if it has begun."""
        path = self.root / "pids" / stage
        return int(path.read_text()) if path.exists() and path.read_text() else None

    def share(self, remote: str) -> None:
        """Make it a git repository of one commit, whose default DVC remote is at the URL `remote`."""
        (self.root / ".gitignore").write_text("/out/\n/pids/\n/times/\n/saved/\n/runs/\n/logs/\n/scratch/\n")
        (self.root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (self.root / ".dvc" / "config").write_text(
            "[core]\n    analytics = false\n    check_update = false\n    remote = store\n"
            f"['remote \"store\"']\n    url = {remote}\n"
        )
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", ".")
        self.git("-c", "user.name=Toy", "-c", "user.email=toy@localhost", "commit", "--quiet", "-m", "A toy")

    def git(self, *arguments: str) -> str:
        """What git says."""
        return subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True).stdout


def make_toy(root: Path, upstream: dict[str, list[str]]) -> Toy:
    """A project whose stages wait for each other as `upstream` says."""
    for folder in ("fate", "in", "out", "pids", "times", "saved", "runs", ".dvc"):
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
def toy_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[str]]], Toy]:
    """Makes a project of these stages, and goes there."""

    def make(upstream: dict[str, list[str]]) -> Toy:
        toy = make_toy(tmp_path / "toy", upstream)
        monkeypatch.chdir(toy.root)
        return toy

    return make


@pytest.fixture
def diamond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """top -> left, right -> bottom, and `alone`; the working folder is the project's."""
    toy = make_toy(
        tmp_path / "toy",
        {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"], "alone": []},
    )
    monkeypatch.chdir(toy.root)
    return toy


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """30 stages, none of which waits for another; the working folder is the project's."""
    toy = make_toy(tmp_path / "toy", {f"stage{number:02d}": [] for number in range(30)})
    monkeypatch.chdir(toy.root)
    return toy


@pytest.fixture
def single(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """`alone`, and no other stage; the working folder is the project's."""
    toy = make_toy(tmp_path / "toy", {"alone": []})
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
