"""A toy pipeline that is published: one stage that makes a model and its evaluation of two pinned files."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.lock import write_lock
from stages.locked import Locked, LockedFile, entry

# The first number of a source's file is the model's bits per byte of that source.
MAKE = """
import hashlib, json
from pathlib import Path

import numpy as np
import polars as pl
import yaml

tables = []
for name, sections in yaml.safe_load(Path("params.yaml").read_text())["sources"].items():
    [url] = sections["download"]["urls"]
    [digest] = sections["download"]["sha256"].values()
    fetched = Path("scratch/download") / digest
    text = (fetched if fetched.exists() else Path(url)).read_text()
    assert hashlib.sha256(text.encode()).hexdigest() == digest, url
    sizes = np.arange(20) * 100 + 500
    level = float(text.split()[0]) + np.linspace(-0.5, 0.5, 20)
    ids = [f"{name}-{number}" for number in range(20)]
    tables.append(pl.DataFrame({"id": ids, "source": name, "bytes": sizes, "bits": sizes * level}))
table = pl.concat(tables)

def score(part):
    value = part["bits"].sum() / part["bytes"].sum()
    return value, {"low": value - 0.1, "high": value + 0.1}

names = table["source"].unique(maintain_order=True).to_list()
scores = {name: score(table.filter(pl.col("source") == name)) for name in names}
total, bounds = score(table)
metrics = {
    "bits_per_byte": {"model": total},
    "sources": {name: {"model": value} for name, (value, _) in scores.items()},
    "intervals": {"all": bounds, "sources": {name: each for name, (_, each) in scores.items()}},
}
Path("metrics").mkdir(exist_ok=True)
Path("models/base").mkdir(parents=True, exist_ok=True)
Path("metrics/evaluate.json").write_text(json.dumps(metrics))
table.write_parquet("metrics/held_out.parquet")
Path("models/base/weights").write_text(json.dumps(total))
"""

PIPELINE = {
    "stages": {
        "evaluate": {
            "cmd": "exec python make.py",
            "params": ["sources"],
            "deps": ["make.py"],
            "outs": ["models/base", "metrics/held_out.parquet"],
            "metrics": ["metrics/evaluate.json"],
        }
    },
    "artifacts": {"base": {"path": "models/base", "type": "model"}},
}
CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


@dataclass(frozen=True)
class Clone:
    """A clone of the toy, and what can be done in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """That of a child: this Python first."""
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
        }

    def run(self, *command: str, **variables: str) -> str:
        """What `command` prints; it must succeed."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def git(self, *arguments: str) -> str:
        """What git prints."""
        return self.run("git", *arguments)

    def tags(self, there: bool = False) -> list[str]:
        """The names of all tags, here or upstream."""
        listed = self.git("ls-remote", "--refs", "--tags", "origin") if there else self.git("tag")
        return sorted(line.rpartition("refs/tags/")[2] if there else line for line in listed.splitlines())

    def head(self, there: bool = False) -> str:
        """The commit of the branch main, here or upstream."""
        return self.git("ls-remote", "origin", "refs/heads/main")[:40] if there else self.git("rev-parse", "main")

    def bits(self, source: str, value: float) -> None:
        """From now on the file of `source` gives that many bits per byte."""
        (self.root.parent / "corpus" / f"{source}.txt").write_text(f"{value}\n")

    def pin(self) -> None:
        """Pin the files as they are now, in params.yaml, with a comment, and in sources.lock."""
        lines, entries = ["# what the model is made of", "sources:"], {}
        for path in sorted((self.root.parent / "corpus").glob("*.txt")):
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            file = LockedFile(name=path.name, bytes=len(content), sha256=digest)
            entries[path.stem] = entry(Locked(kind="files", files=(file,)))
            lines += [f"  {path.stem}:", f"    download:  # of {path.stem}", "      kind: files"]
            lines += [f"      urls: [../corpus/{path.name}]", f"      sha256: {{{path.name}: {digest}}}"]
        (self.root / "params.yaml").write_text("\n".join(lines) + "\n")
        write_lock(self.root, entries)

    def build(self, **bits: float) -> None:
        """Give sources these bits per byte, pin them, and build."""
        for source, value in bits.items():
            self.bits(source, value)
        self.pin()
        self.run("dvc", "repro", "--quiet")

    def commit(self, path: str, text: str) -> None:
        """Change a file, and commit it."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        self.git("add", path)
        self.git("commit", "--quiet", "-m", f"change {path}", "--", path)

    def another(self, name: str) -> "Clone":
        """A second clone of the same upstream, beside this one, with this one's remote."""
        self.git("clone", "--quiet", str(self.root.parent / "upstream.git"), str(self.root.parent / name))
        other = Clone(self.root.parent / name)
        _identify(other)
        return other


def make_clone(folder: Path, remote: str | None = "", upstream: bool = True) -> Clone:
    """The toy, committed and pushed but not built, in `folder`/clone; `remote` is the URL of DVC's, or None."""
    (folder / "corpus").mkdir(parents=True)
    clone = Clone(folder / "clone")
    clone.root.mkdir()
    clone.git("init", "--quiet", "--initial-branch", "main")
    _identify(clone)
    (clone.root / ".dvc").mkdir()
    (clone.root / ".dvc/config").write_text(CONFIG)
    (clone.root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (clone.root / ".gitignore").write_text("/models/\n/metrics/\n/logs/\n/scratch/\n")
    (clone.root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    (clone.root / "make.py").write_text(MAKE)
    clone.bits("code", 1.5)
    clone.bits("wiki", 2.0)
    clone.pin()
    if remote is not None:
        clone.run("dvc", "remote", "add", "--quiet", "--default", "store", remote or str(folder / "store"))
    clone.git("add", ".")
    clone.git("commit", "--quiet", "-m", "a toy")
    if upstream:
        clone.git("init", "--quiet", "--bare", "--initial-branch", "main", "../upstream.git")
        clone.git("remote", "add", "origin", "../upstream.git")
        clone.git("push", "--quiet", "--set-upstream", "origin", "main")
    return clone


def copy_of(clone: Clone, folder: Path) -> Clone:
    """`clone` and all that lies beside it, in another folder: one build serves many tests."""
    shutil.copytree(clone.root.parent, folder, symlinks=True)
    return Clone(folder / clone.root.name)


def _identify(clone: Clone) -> None:
    clone.git("config", "user.name", "Toy")
    clone.git("config", "user.email", "toy@localhost")
