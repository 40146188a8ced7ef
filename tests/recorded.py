"""A project of some hundred short documents, trained on while what the model and its loss are given is recorded."""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tiny import NOUNS, VERBS, Project, make_project, sentence

STORIES = 260
FILES = 6
EACH = 30  # documents that are bad in the same way
STEPS, SAMPLES, LENGTH = 80, 32, 32
DATA = ("download", "extract", "filter", "fingerprint")

# The stages one after another in one process, which spares their imports; then pretrain, with what torch's embedding
# and the loss are called with written down.
RECORD = """
import runpy, sys
import numpy as np

def stage(name, *arguments):
    sys.argv = [name, *arguments]
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)

for each in STAGES:
    stage(*each)

import torch
from stages.pretrain import loss
inputs, targets = [], []
embed, nats = torch.nn.Embedding.forward, loss.chunked_nats

def forward(self, ids):
    if torch.is_grad_enabled():  # else the architecture is only looked at
        inputs.append(ids.numpy().copy())
    return embed(self, ids)

def chunked_nats(hidden, weight, asked, z_loss):
    targets.append(asked.numpy().copy())
    return nats(hidden, weight, asked, z_loss)

torch.nn.Embedding.forward, loss.chunked_nats = forward, chunked_nats
stage("pretrain")
np.savez("recorded.npz", inputs=np.stack(inputs), targets=np.stack(targets))
"""


@dataclass(frozen=True)
class Recorded:
    """The project, and the batches that its model got: step s is row s - 1."""

    project: Project
    inputs: npt.NDArray[np.int64]  # (steps, samples, tokens)
    targets: npt.NDArray[np.int64]  # the same shape
    texts: dict[str, str]  # of every record of the corpus, by origin


def marker(number: int) -> str:
    """A word that only the story `number` has."""
    return "x" + "".join("bcdfghjkl"[int(digit) % 9] + "aeiou"[int(digit) % 5] for digit in f"{number:04d}") + "x"


def story(draw: random.Random, number: int) -> str:
    """A story that every rule keeps."""
    return " ".join([f"Once {marker(number)} was told.", *(sentence(draw) for _ in range(draw.randrange(3, 6)))])


def bad_stories(draw: random.Random, stories: list[str]) -> list[str]:
    """Documents that break one rule each, duplicates, and records without text."""
    words = [word for word in [*NOUNS, *VERBS] if len(word) > 3]

    def some(count: int, *choices: str) -> str:
        return " ".join(draw.choice(choices or words) for _ in range(count))

    bad: list[str] = []
    for number in range(EACH):
        lines = [some(6) for _ in range(12)]
        bad += [
            "the " + some(20) + " of",
            "the of " + some(80, "a", "an", "it", "to", "be", "so", "we"),
            "the of " + some(60, "incomprehensibilities", "counterrevolutionaries", "disproportionateness"),
            "the of " + some(60) + " # #" * 10,
            "the of " + " ... ".join(some(4) for _ in range(15)),
            "\n".join(f"* the of {line}" for line in lines),
            "\n".join(f"the of {line}" + ("..." if at % 2 else "") for at, line in enumerate(lines)),
            "the of " + " ".join(f"{some(1)} {draw.randrange(10**6)}" for _ in range(40)),
            some(70),
            stories[number].replace("and it", "AND  it"),
            stories[EACH + number] + " The end.",
        ]
    return [*bad, *[" \n"] * 5]


def commented(path: Path, first: int) -> str:
    """The text of a script, after each of its lines has got a comment that no other line has."""
    lines = path.read_text(encoding="utf-8").split("\n")
    text = "\n".join(f"{line}  # {marker(first + at)}" if line else line for at, line in enumerate(lines))
    path.write_text(text, encoding="utf-8")
    return text


def write_corpus(folder: Path) -> dict[str, str]:
    """Write stories, good and bad ones mixed, in place of those of the tiny project; all texts by origin."""
    draw = random.Random(11)
    stories = [story(draw, number) for number in range(STORIES)]
    texts = [*stories, *bad_stories(draw, stories)]
    draw.shuffle(texts)
    (folder / "stories.jsonl").unlink()
    origins = {
        path.name: commented(path, STORIES + 100 * at) for at, path in enumerate(sorted((folder / "scripts").iterdir()))
    }
    for file in range(FILES):
        own = texts[file::FILES]
        lines = [json.dumps({"text": text}) for text in own]
        (folder / f"stories-{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        origins |= {f"stories-{file}.jsonl#{number}": text for number, text in enumerate(own)}
    return origins


def record(folder: Path) -> Recorded:
    """Build the project in `folder` up to its model, and what the model got."""
    project = make_project(folder)
    texts = write_corpus(folder / "corpus")
    for key, value in {
        "sources.stories.filter": {"gopher_quality": {}},
        "sources.stories.download.urls": ["corpus/stories-*.jsonl"],
        "sources.stories.extract.shard_bytes": 120_000,
        "pretrain.tokens": STEPS * SAMPLES * LENGTH,
        "pretrain.tokens_per_step": SAMPLES * LENGTH,
        "pretrain.checkpoint_steps": 30,
    }.items():
        project.set(key, value)
    project.lock()
    sources = list(project.params["sources"])
    stages = [(stage, source) for stage in DATA for source in sources]
    stages += [("dedup",), ("tokenizer",), *(("tokenize", source) for source in sources)]
    (folder / "record.py").write_text(f"STAGES = {stages!r}\n{RECORD}", encoding="utf-8")
    done = project.run(sys.executable, "record.py", workers=1, micro_batch=SAMPLES)
    assert done.returncode == 0, done.stderr
    locked = project.run("dvc", "commit", "--quiet", "--force", "--with-deps", "pretrain")
    assert locked.returncode == 0, locked.stderr
    with np.load(folder / "recorded.npz") as batches:
        return Recorded(project, batches["inputs"], batches["targets"].reshape(STEPS, SAMPLES, LENGTH), texts)
