"""Questions to a simulated project: so many documents, 200 shards, a hundred builds in git. Seconds for each command.

    python -m benchmarks.lineage                      # a million documents
    python -m benchmarks.lineage --documents 10000000
    python -m benchmarks.lineage --keep FOLDER        # makes the project there, or asks the one that is there

Each command is a fresh process, from its start to its last line. Ids, decisions, counts and token ranges are drawn at
random (seeded) and written as the stages write them; the texts are random words, some 700 bytes each; the token
shards are sparse files, as nobody who asks reads tokens. The files lie in DVC's cache under made-up digests.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from lineage.why.text import counts_of
from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA, UNREADABLE_SCHEMA, shard_name, write_shard
from stages.extract.signals import SIGNAL_SCHEMA
from stages.tokens import SIDECAR_SCHEMA

ROOT = Path(__file__).parents[1]
SOURCES = ("web", "books", "code", "papers")
SHARDS = 200
BUILDS = 100
POOL = 4096  # different texts; the counts of words beside them are drawn anew for each document
ASKED = 5  # so many documents from the end of a shard stands one whose text no other has
KEPT, HELD_OUT, DUPLICATES = 0.6, 0.005, 0.15  # shares of the documents; the others are dropped by filter
LENGTH, SAMPLES = 2048, 512
PRETRAIN = {
    "model": {"model_type": "llama"}, "sequence_length": LENGTH, "tokens_per_step": LENGTH * SAMPLES,
    "optimizer": {"name": "adamw"}, "schedule": {"shape": "cosine"}, "checkpoint_steps": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """The columns of one shard that others depend on."""

    ids: pl.Series
    origins: pl.Series
    kept: np.ndarray
    words: np.ndarray
    split: pl.Series


class Cache:
    """DVC's cache of the simulated project: files under made-up digests, and the lists of its folders."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".dvc/cache/files/md5"

    def place(self, name: str) -> tuple[str, Path]:
        """A digest for the file `name`, and where it lies."""
        digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        path = self.folder / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        return digest, path

    def take(self, folder: Path, name: str) -> dict[str, Any]:
        """Move the files of `folder` here; its out in dvc.lock, under the path `name`."""
        listed, size = [], 0
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest, target = self.place(f"{name}/{path.relative_to(folder)}")
            size += path.stat().st_size
            path.rename(target)
            listed.append({"md5": digest, "relpath": path.relative_to(folder).as_posix()})
        return self.out(name, listed, size)

    def out(self, name: str, listed: list[dict[str, str]], size: int = 0) -> dict[str, Any]:
        """The out `name` with these files."""
        text = json.dumps(listed)
        digest, path = self.place(name + text)
        path.with_name(path.name + ".dir").write_text(text, encoding="utf-8")
        return {"path": name, "md5": f"{digest}.dir", "size": size, "nfiles": len(listed)}


def texts(draw: np.random.Generator) -> pl.Series:
    """POOL texts of random words."""
    letters = np.array(list("etaoinshrdlu"))
    vocabulary = ["".join(draw.choice(letters, size)) for size in draw.integers(2, 9, 3000)]
    return pl.Series([" ".join(draw.choice(vocabulary, 120)) for _ in range(POOL)])


def draw_shard(draw: np.random.Generator, source: str, number: int, rows: int) -> Drawn:
    """What is decided on the documents of a shard."""
    raw = draw.bytes(16 * rows)
    ids = pl.Series([raw[at : at + 16] for at in range(0, 16 * rows, 16)], dtype=pl.Binary).bin.encode("hex")
    origins = pl.select(pl.format("crawl-{}.warc.gz#{}", pl.lit(f"{source}-{number:05d}"), pl.int_range(rows)))
    fate = draw.random(rows)
    split = np.where(fate < KEPT - HELD_OUT, "train", np.where(fate < KEPT, "held_out", None))
    return Drawn(
        ids,
        origins.to_series(),
        fate < KEPT + DUPLICATES,
        draw.integers(50, 2000, rows),
        pl.Series(split.tolist(), dtype=pl.String),
    )


def write_documents(
    target: Path, draw: np.random.Generator, source: str, number: int, drawn: Drawn, pool: pl.Series
) -> None:
    """What extract writes of a shard."""
    rows = len(drawn.ids)
    own = f"This text, of {source} and of shard {number}, stands nowhere else! " + pool[number]
    counts, at = counts_of(own), rows - ASKED
    text = pool[draw.integers(0, POOL, rows)].scatter(at, own)
    table = pl.DataFrame({"id": drawn.ids, "text": text, "origin": drawn.origins})
    table = table.with_columns(
        pl.lit(source).alias("source"),
        pl.Series("license", ["CC0-1.0", "CC-BY-4.0", None])[draw.integers(0, 3, rows)],
        pl.lit("2026-01-01").alias("date"),
        pl.lit("en").alias("language"),
        pl.concat_str(pl.lit(f'{{"url": "https://{source}.example/'), "origin", pl.lit('"}')).alias("meta"),
    )
    write_shard(target / shard_name("documents", number), table.select(DOCUMENT_SCHEMA.names()))
    real = {name: np.round(draw.random(rows), 3) for name in ("language_score", "mean_word_length")}
    counted = {"words": drawn.words.copy(), "marks": draw.integers(10, 300, rows), "characters": drawn.words * 6}
    counted["words"][at], counted["marks"][at] = counts.words, counts.marks
    real["mean_word_length"][at] = counts.mean_word_length
    signals = pl.DataFrame({"id": drawn.ids, **real, **counted})
    absent = [pl.lit(0).cast(dtype).alias(name) for name, dtype in SIGNAL_SCHEMA.items() if name not in signals.columns]
    write_shard(target / shard_name("signals", number), signals.with_columns(absent))
    bad = pl.DataFrame({"origin": [f"bad-{number}.warc.gz#{row}" for row in range(20)], "rule": "empty", "detail": ""})
    write_shard(target / shard_name("unreadable", number), bad.cast(UNREADABLE_SCHEMA))


def write_decisions(filtered: Path, deduped: Path, number: int, drawn: Drawn) -> None:
    """What filter and dedup write of a shard."""
    decided = pl.DataFrame({"id": drawn.ids, "origin": drawn.origins, "keep": drawn.kept, "split": drawn.split})
    dropped, duplicate = ~pl.col("keep"), pl.col("keep") & pl.col("split").is_null()
    decided = decided.with_columns(
        rule=pl.when(dropped).then(pl.lit("gopher_quality.min_words")),
        value=pl.when(dropped).then(pl.lit(42.0)),
        threshold=pl.when(dropped).then(pl.lit(50.0)),
        duplicate_of=pl.lit(None, pl.String),
        similarity=pl.lit(None, pl.Float64),
        duplicates=pl.lit(None, pl.Int64),
        cuts=pl.lit(None, pl.List(pl.Int64)),
    )
    columns = DECISION_SCHEMA.names()
    write_shard(
        filtered / shard_name("decisions", number), decided.with_columns(split=pl.lit(None, pl.String)).select(columns)
    )
    decided = decided.with_columns(
        rule=pl.when(duplicate).then(pl.lit("near_duplicate")).otherwise("rule"),
        duplicate_of=pl.when(duplicate).then(pl.lit(drawn.ids[0])),
        similarity=pl.when(duplicate).then(0.9),
        keep=pl.col("split").is_not_null(),
    )
    write_shard(deduped / shard_name("decisions", number), decided.select(columns))


def write_tokens(target: Path, number: int, drawn: Drawn) -> int:
    """What tokenize writes of a shard, with a hole where the tokens are; how many there would be."""
    train = (drawn.split == "train").fill_null(False)
    lengths = pl.Series("tokens", drawn.words, dtype=pl.Int64).filter(train)
    sidecar = pl.DataFrame(
        {"id": drawn.ids.filter(train), "first_token": lengths.cum_sum() - lengths, "tokens": lengths}
    )
    write_shard(target / shard_name("documents", number), sidecar.cast(SIDECAR_SCHEMA))
    with (target / shard_name("tokens", number, "bin")).open("wb") as file:
        file.truncate(2 * int(lengths.sum()))
    return int(lengths.sum())


def list_shards(folder: Path, **counts: int) -> None:
    """A manifest without digests: nobody who asks compares them."""
    shards: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir()):
        entry: dict[str, Any] = {"path": path.name, "bytes": path.stat().st_size, "sha256": "0" * 64}
        if path.suffix == ".parquet":
            entry["rows"] = pl.scan_parquet(path).select(pl.len()).collect().item()
        shards.append(entry)
    (folder / "manifest.json").write_text(json.dumps({"counts": counts, "shards": shards}), encoding="utf-8")


def simulate_source(root: Path, source: str, rows: int, pool: pl.Series, cache: Cache) -> tuple[dict[str, Any], int]:
    """The outs of `source` by stage (dedup's as its list of files), and how many tokens it has."""
    draw = np.random.default_rng([SOURCES.index(source), rows])
    folders = {stage: root / "made" / stage for stage in ("download", "extract", "filter", "dedup", "tokenize")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    tokens, each = 0, SHARDS // len(SOURCES)
    for number in range(each):
        drawn = draw_shard(draw, source, number, rows // each)
        write_documents(folders["extract"], draw, source, number, drawn, pool)
        write_decisions(folders["filter"], folders["dedup"], number, drawn)
        tokens += write_tokens(folders["tokenize"], number, drawn)
    outs = {}
    for stage, folder in folders.items():
        list_shards(folder, **({"tokens": tokens} if stage == "tokenize" else {}))
        outs[stage] = cache.take(folder, f"data/{stage}/{source}")
    shutil.rmtree(root / "made")
    return outs, tokens


def simulate(root: Path, documents: int) -> None:
    """A project in `root` with so many documents, and BUILDS builds of them in git."""
    cache, pool = Cache(root), texts(np.random.default_rng(0))
    stages: dict[str, Any] = {}
    dedup: list[dict[str, str]] = []
    total = 0
    for source in SOURCES:
        outs, tokens = simulate_source(root, source, documents // len(SOURCES), pool, cache)
        total += tokens
        for stage in ("download", "extract", "filter", "tokenize"):
            params = {f"sources.{source}.{stage}": {"gopher_quality": {}}} if stage == "filter" else {}
            stages[f"{stage}@{source}"] = executed(f"python -m stages.{stage} {source}", params, outs[stage])
        listed = json.loads((cache.folder / outs["dedup"]["md5"][:2] / outs["dedup"]["md5"][2:]).read_text())
        dedup += [{**entry, "relpath": f"{source}/{entry['relpath']}"} for entry in listed]
    stages["dedup"] = executed("python -m stages.dedup", {"dedup": {}}, cache.out("data/dedup", dedup))
    params = {"pretrain": {**PRETRAIN, "tokens": total}, "mixture": dict.fromkeys(SOURCES, 1)}
    published = [
        {"md5": "0" * 32, "relpath": f"step-{step:08d}/model.safetensors"}
        for step in range(200, total // (LENGTH * SAMPLES), 200)
    ]
    stages["pretrain"] = executed("python -m stages.pretrain", params, cache.out("models/checkpoints", published))
    (root / "params.yaml").write_text(
        yaml.safe_dump({"sources": {name: {} for name in SOURCES}, **params}, sort_keys=False)
    )
    commit_builds(root, stages)


def executed(command: str, params: dict[str, Any], out: dict[str, Any]) -> dict[str, Any]:
    """A stage in dvc.lock."""
    return {"cmd": command, "params": {"params.yaml": params}, "outs": [out]}


def commit_builds(root: Path, stages: dict[str, Any]) -> None:
    """Commit BUILDS dvc.lock, each with another seed of the training."""
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    for number in reversed(range(BUILDS)):
        stages["pretrain"]["params"]["params.yaml"]["pretrain"]["seed"] = number
        lock = yaml.dump({"schema": "2.0", "stages": stages}, Dumper=yaml.CSafeDumper, sort_keys=False)
        (root / "dvc.lock").write_text(lock, encoding="utf-8")
        subprocess.run(["git", "add", "dvc.lock", "params.yaml"], cwd=root, check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", f"build {number}"], cwd=root, check=True)


def questions(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Titles and arguments of what is asked."""
    lock = yaml.load((root / "dvc.lock").read_text(encoding="utf-8"), yaml.CSafeLoader)
    digest = lock["stages"]["extract@papers"]["outs"][0]["md5"]
    cache = root / ".dvc/cache/files/md5"
    listed = {entry["relpath"]: entry["md5"] for entry in json.loads((cache / digest[:2] / digest[2:]).read_text())}
    last = max(name for name in listed if name.startswith("documents"))
    table = pl.scan_parquet(cache / listed[last][:2] / listed[last][2:]).tail(ASKED).collect().to_dicts()
    for name, text in (
        ("same.txt", table[0]["text"]),
        ("like.txt", table[0]["text"].replace(" ", "\n", 1) + " the end"),
    ):
        (root / name).write_text(text, encoding="utf-8")
    yield "why, by id", ["why", table[0]["id"]]
    yield "why, by origin", ["why", table[1]["origin"]]
    yield "why, by URL", ["why", json.loads(table[2]["meta"])["url"]]
    yield "why, by a text", ["why", "--text", "same.txt"]
    yield "why, by a text like it", ["why", "--text", "like.txt"]
    yield "why, of no document", ["why", "0123456789abcdef"]
    yield "trace, a step", ["trace", "--step", "100"]
    yield "trace, a checkpoint", ["trace", "--checkpoint", "200"]
    yield "trace, the base model", ["trace", "--checkpoint", "base"]
    yield "trace, a document", ["trace", "--document", table[3]["id"]]
    (root / "list.txt").write_text(f"{table[4]['id']}\n{json.loads(table[2]['meta'])['url']}\n", encoding="utf-8")
    yield "takedown, id and URL", ["takedown", "list.txt"]
    yield "diff, of two builds", ["diff", "HEAD~1", "HEAD"]
    yield "log, of all builds", ["log", "--all"]


def ask(root: Path, arguments: list[str]) -> tuple[float, float, float, int]:
    """Seconds by the clock and of the processors, MB of memory at most, and the exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    with (root / "answer.txt").open("w") as answer:
        command = [sys.executable, "-P", str(ROOT / "pedigree.py"), *arguments]
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=answer, stderr=answer)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode


def main() -> None:
    """Make the project, if it isn't there; ask, and print how long each answer took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000, help="of all sources")
    parser.add_argument("--keep", type=Path, help="where the project is made, and stays")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pedigree-benchmark-") as temporary:
        root = arguments.keep or Path(temporary)
        if not (root / "dvc.lock").exists():
            simulate(root, arguments.documents)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        print(f"{'':<26}{'seconds':>9}{'CPU':>9}{'MB':>9}  exit code")
        for title, question in questions(root):
            seconds, cpu, memory, code = ask(root, question)
            print(f"{title:<26}{seconds:>9.2f}{cpu:>9.2f}{memory:>9.0f}  {code}", flush=True)


if __name__ == "__main__":
    main()
