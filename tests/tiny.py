"""A tiny project that the tests can build: the real stages, made-up text, a model that trains in seconds."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.lock import write_lock
from stages.lock import entry_of

ROOT = Path(__file__).parents[1]
FILES = (
    "stages", "flows", "lineage", "pedigree.py", "dvc.yaml", "takedown.jsonl", ".dvcignore", ".gitignore",
    "requirements.lock",
)  # fmt: skip

NOUNS = "river stone garden letter winter engine market sailor window doctor forest bridge story candle harbour".split()
VERBS = "crossed followed remembered carried painted measured forgot opened repaired watched".split()
ADJECTIVES = "old quiet narrow golden patient broken early distant careful heavy".split()


def sentence(draw: random.Random) -> str:
    """A made-up sentence of plain English words."""
    first, second = draw.sample(NOUNS, 2)
    return (
        f"The {draw.choice(ADJECTIVES)} {first} of the {second} {draw.choice(VERBS)} "
        f"that {draw.choice(NOUNS)} with the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}, "
        f"and it had to be {draw.choice(ADJECTIVES)}."
    )


def prose(draw: random.Random, sentences: int) -> str:
    """A document in two paragraphs."""
    lines = [sentence(draw) for _ in range(sentences)]
    return " ".join(lines[: sentences // 2]) + "\n\n" + " ".join(lines[sentences // 2 :])


def function(draw: random.Random) -> str:
    """A made-up Python function."""
    name, argument, result = draw.choice(VERBS), draw.choice(NOUNS), draw.choice(NOUNS)
    return (
        f"def {name}_{result}({argument}, {result}=None):\n"
        f'    """Return the {draw.choice(ADJECTIVES)} {result}."""\n'
        f"    total = {draw.randrange(100)}\n"
        f"    for item in {argument}:\n"
        f"        total += item * {draw.randrange(2, 9)}\n"
        f"    return {result} or total\n"
    )


def write_corpus(folder: Path) -> None:
    """Two sources: stories (jsonl, with two duplicates and two documents too short) and scripts (Python files)."""
    draw = random.Random(7)
    stories = [prose(draw, draw.randrange(10, 18)) for _ in range(60)]
    stories += [stories[3], stories[5].replace("river", "brook", 1), "Too short.", ""]
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text, "id": f"story-{number}"}) for number, text in enumerate(stories)]
    (folder / "stories.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    scripts = folder / "scripts"
    scripts.mkdir()
    for number in range(24):
        text = "\n\n".join(function(draw) for _ in range(8))
        (scripts / f"script_{number:02d}.py").write_text(text, encoding="utf-8")


PARAMS: dict[str, Any] = {
    "sources": {
        "stories": {
            "download": {"kind": "files", "urls": ["corpus/stories.jsonl"]},
            "extract": {"format": "jsonl", "license": "CC0-1.0"},
            "filter": {"language": {"allowed": ["en"]}, "gopher_quality": {}},
        },
        "scripts": {
            "download": {"kind": "files", "urls": ["corpus/scripts/*.py"]},
            "extract": {"format": "code", "license": "CC0-1.0", "shard_bytes": 8000},
            "filter": {"code": {}},
        },
    },
    "mixture": {"stories": 2, "scripts": 1},
    "fingerprint": {},
    "dedup": {"held_out": 0.1},
    "tokenizer": {"vocabulary": 400, "sample_bytes": 100_000},
    "tokenize": {"dtype": "uint16"},
    "pretrain": {
        "model": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "sequence_length": 32,
        "tokens": 40 * 256,
        "tokens_per_step": 256,
        "block_samples": 32,
        "optimizer": {"name": "muon", "learning_rate": 0.02},
        "schedule": {"shape": "wsd", "warmup_steps": 4},
        "checkpoint_steps": 20,
    },
    "evaluate": {
        "sequence_length": 32,
        "stride": 16,
        "tasks": [],
        "probe": None,
        "samples": {"prompts": ["The old"], "tokens": 8},
    },
}


@dataclass(frozen=True)
class Project:
    """A copy of the project that builds a tiny corpus, and how to run things in it."""

    folder: Path

    @property
    def params(self) -> dict[str, Any]:
        """params.yaml, as it stands."""
        loaded: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        return loaded

    def set(self, key: str, value: object) -> None:
        """Give `key` of params.yaml (dots lead inwards) another value; None takes it out."""
        params = self.params
        *path, last = key.split(".")
        section = params
        for name in path:
            section = section[name]
        if value is None:
            del section[last]
        else:
            section[last] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def lock(self) -> None:
        """Lock the sources as they are now."""
        with chdir(self.folder):
            write_lock(Path(), {name: entry_of(name) for name in self.params["sources"]})

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a command in this project."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PEDIGREE_")}
        path = f"{Path(sys.executable).parent}:{clean['PATH']}"
        given = {f"PEDIGREE_{name.upper()}": str(value) for name, value in settings.items()}
        return {**clean, "PATH": path, "PYTHONPATH": str(self.folder), "DVC_NO_ANALYTICS": "1", **given}

    def run(self, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command here; `settings` become PEDIGREE_ variables."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(**settings), capture_output=True, text=True, timeout=300
        )

    def stage(self, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run one stage by hand: stage("filter", "stories")."""
        return self.run(sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:], **settings)

    def repro(self, *targets: str, **settings: object) -> str:
        """`dvc repro`, which must succeed; all that it said."""
        done = self.run("dvc", "repro", *targets, **settings)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    def outs(self) -> dict[str, str]:
        """The digest of every out in dvc.lock, by path."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}

    def json(self, path: str) -> Any:
        """What the JSON file at `path` holds."""
        return json.loads((self.folder / path).read_text(encoding="utf-8"))


def make_project(folder: Path) -> Project:
    """A tiny project in `folder`, not built yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        source = ROOT / name
        copy: Callable[..., Any] = shutil.copytree if source.is_dir() else shutil.copyfile
        ignored = {"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}
        copy(source, folder / name, **ignored)
    write_corpus(folder / "corpus")
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    project = Project(folder)
    project.lock()
    subprocess.run(
        ["dvc", "init", "--quiet", "--no-scm"], cwd=folder, env=project.environment(), check=True, capture_output=True
    )
    return project


def commit(project: Project, message: str) -> str:
    """Commit all that stands in `project`; the commit."""
    author = ["-c", "user.name=tiny", "-c", "user.email=tiny@localhost"]
    for command in (["add", "--all"], [*author, "commit", "--quiet", "--message", message]):
        subprocess.run(["git", *command], cwd=project.folder, check=True, capture_output=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def with_git(project: Project) -> Project:
    """`project`, as a git repository with one commit."""
    config = project.folder / ".dvc/config"
    config.write_text(config.read_text(encoding="utf-8").replace("no_scm = True", ""), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], cwd=project.folder, check=True)
    commit(project, "built")
    return project
