"""A toy pipeline in a git repository, its remote in an S3 server, and clones that share nothing else."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from tiny import ROOT

# numbers makes a folder, letters a file, total depends on both. Each run leaves a line in a file that all clones share.
STAGE = """
import os, sys, time
from pathlib import Path

name = sys.argv[1]
with open(os.environ["TOY_RUNS"], "a") as runs:
    runs.write(name + "\\n")
given = Path("in", name).read_text()
out = Path("out", name)
if name == "slow":
    begun = time.monotonic()
    while not Path(os.environ["TOY_RUNS"]).with_name("go").exists() and time.monotonic() < begun + 120:
        time.sleep(0.05)
if name in ("numbers", "many"):
    out.mkdir(parents=True)
    for number in range(3 if name == "numbers" else 400):
        out.joinpath(f"{number}.txt").write_text(f"{number} {given}" * 2000)
else:
    out.parent.mkdir(exist_ok=True)
    out.write_text(f"{name} {given}" * 2000)
"""
STAGES = {"numbers": [], "letters": [], "total": ["out/numbers", "out/letters"]}
IGNORED = "/out/\n/logs/\n/scratch/\n__pycache__/\n"


@dataclass(frozen=True)
class Clone:
    """One clone of the project, with an environment of its own."""

    folder: Path
    environment: dict[str, str]
    url: str

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, timeout=300
        )

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Begin a command here."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def pedigree(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A pedigree command."""
        return self.run(sys.executable, str(ROOT / "pedigree.py"), *arguments, **environment)

    def build(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A build by the runner, without Prefect and without the parameters that the toy lacks."""
        return self.run(*builder(*options), **environment)

    def good(self, *command: str) -> str:
        """Run a command that must succeed; what it said."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def change(self, stage: str, text: str) -> None:
        """Give a stage another input."""
        (self.folder / "in" / stage).write_text(text)

    def commit(self) -> None:
        """Commit all that git doesn't ignore."""
        self.good("git", "add", "--all")
        self.good("git", "commit", "--quiet", "--message", "a build")

    def clone(self, folder: Path) -> "Clone":
        """A clone with nothing but what is committed."""
        self.good("git", "clone", "--quiet", str(self.folder), str(folder))
        return replace(
            self, folder=folder, environment=self.environment | {"DVC_SITE_CACHE_DIR": str(folder / ".site")}
        )

    def runs(self) -> list[str]:
        """The stages that were run, in all clones."""
        path = Path(self.environment["TOY_RUNS"])
        return sorted(path.read_text().split()) if path.exists() else []


def builder(*options: str) -> list[str]:
    """The command of a build."""
    program = (
        "import os, sys\n"
        "from flows import work\n"
        "from flows.terminal import watched\n"
        "from flows.work import build_locally\n"
        "from stages.params import Refusal\n"
        "watched()\n"
        "if 'RETRY_AFTER' in os.environ: work.RETRY_AFTER_SECONDS = (float(os.environ['RETRY_AFTER']),) * 3\n"
        "try:\n"
        f"    print(build_locally({', '.join(options)}))\n"
        "except Refusal as refusal:\n"
        "    sys.exit(print(f'error: {refusal}', file=sys.stderr) or 2)\n"
    )
    return [sys.executable, "-c", program]


def make_clone(folder: Path, url: str, environment: dict[str, str], stages: dict[str, list[str]] = STAGES) -> Clone:
    """The project, committed but not built, its default remote at `url`; the S3 server is in the environment."""
    (folder / "in").mkdir(parents=True)
    lines = {}
    for name, before in stages.items():
        (folder / "in" / name).write_text(name)
        deps = ["stage.py", f"in/{name}", *before]
        lines[name] = {"cmd": f"exec python stage.py {name}", "deps": deps, "outs": [f"out/{name}"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": lines}, sort_keys=False))
    (folder / "stage.py").write_text(STAGE)
    (folder / ".gitignore").write_text(IGNORED + "/.site/\n")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PEDIGREE_", "AWS_"))}
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in {"NAME": "toy", "EMAIL": "toy@example.org"}.items()
    }
    own |= identity | environment
    own |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TOY_RUNS": str(folder.parent / "runs.txt"),
        "DVC_SITE_CACHE_DIR": str(folder / ".site"),
        "DVC_NO_ANALYTICS": "1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    clone = Clone(folder, own, url)
    clone.good("git", "init", "--quiet")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    clone.commit()
    return clone
