"""Rules and MinHash signatures beside datatrove's and rensa's: the same documents, in turn, CPU seconds.

    python -m benchmarks.rules

Needs the starter corpus (`make repro`) and a package index: the peers are installed into a virtual
environment of their own, which is thrown away. Each side runs in one process of one thread and loads
its tables and models before the clock starts. Ratios above 1 say how many times less processor time
this program takes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from stages.documents import read_shard, shard_paths
from stages.extract.signals import measure
from stages.filter import FilterParams, decide, rules
from stages.minhash import FingerprintParams, signatures
from stages.params import Refusal, parse_params
from stages.process import run

PEERS = ["datatrove[processing]==0.10.1", "spacy==3.8.18", "rensa==0.5.0"]
SOURCES = ("papers", "speeches", "wiki")
CHARACTERS = 1_500_000  # datatrove's filters take some 8 s for them
ROUNDS = 3
GROUPS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


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


def filtered(texts: list[str]) -> dict[str, list[bool]]:
    """Which texts each rule set keeps, with the published thresholds."""
    own = pl.DataFrame({"id": [""] * len(texts), "origin": [""] * len(texts)})
    signals = pl.concat([own, measure(texts)], how="horizontal")
    asked = {group: rules(parse_params(FilterParams, {group: {}}, group)) for group in GROUPS}
    return {group: decide(signals, questions)["keep"].to_list() for group, questions in asked.items()}


def ours(texts: list[str]) -> dict[str, Any]:
    """CPU seconds of the rules and of the signatures, and what the rules keep."""
    warm = texts[:1]
    filtered(warm), signatures(warm, FingerprintParams())
    begin = time.process_time()
    keep = filtered(texts)
    ruled = time.process_time()
    signatures(texts, FingerprintParams())
    return {"filters": ruled - begin, "minhash": time.process_time() - ruled, "keep": keep}


# Runs in the peers' environment, which has none of this program's modules.
PEER = """
import json, sys, tempfile, time

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from rensa import RMinHash

texts = json.load(open(sys.argv[1]))
filters = {
    "gopher_repetition": GopherRepetitionFilter(),
    "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False),  # as FineWeb has it
    "fineweb": FineWebQualityFilter(),
}
signer = MinhashDedupSignature(tempfile.mkdtemp(), MinhashConfig())


def filtered(texts):
    kept = {}
    for name, each in filters.items():
        answers = [each.filter(Document(text=text, id="")) for text in texts]
        kept[name] = [answer is True or (isinstance(answer, tuple) and answer[0] is True) for answer in answers]
    return kept


def datatrove_minhash(texts):
    for text in texts:
        shingles = signer.get_shingles(text)
        if shingles.size:
            signer.get_signature(shingles)


def rensa_minhash(texts):
    for text in texts:
        words = text.lower().split()
        signature = RMinHash(num_perm=112, seed=1)
        signature.update([" ".join(words[i : i + 5]) for i in range(len(words) - 4)])
        signature.digest()


def seconds(work):
    work(texts[:1])
    begin = time.process_time()
    result = work(texts)
    return time.process_time() - begin, result


took, keep = seconds(filtered)
print(json.dumps({
    "filters": took,
    "minhash_datatrove": seconds(datatrove_minhash)[0],
    "minhash_rensa": seconds(rensa_minhash)[0],
    "keep": keep,
}))
"""


def peer_python(folder: Path) -> Path:
    """The interpreter of a new environment in `folder` with the peers in it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS]
    if subprocess.run(command).returncode:
        raise Refusal(f"pip could not install the peers ({', '.join(PEERS)}); check the package index and run again")
    return python


def answer(command: list[str | Path]) -> dict[str, Any]:
    """The JSON object that `command` prints last."""
    done = subprocess.run(command, env=os.environ | ONE_THREAD, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(texts: list[str], folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each side's answers of ROUNDS rounds, in which the sides take turns."""
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "peer.py").write_text(PEER)
    python = peer_python(folder / "venv")
    own, peer = [], []
    for _ in range(ROUNDS):
        own.append(answer([sys.executable, "-m", "benchmarks.rules", folder / "texts.json"]))
        peer.append(answer([python, folder / "peer.py", folder / "texts.json"]))
    return own, peer


def report(texts: list[str], own: list[dict[str, Any]], peer: list[dict[str, Any]]) -> None:
    """Print the speeds, how often the rules agree, and as the last line the ratios as JSON."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.2f} MB, {ROUNDS} rounds in turn, MB per CPU second (median)")
    pairs = {"filters": "filters", "minhash_datatrove": "minhash", "minhash_rensa": "minhash"}
    ratios = {}
    for name, mine in pairs.items():
        took, took_peer = median(each[mine] for each in own), median(each[name] for each in peer)
        ratios[name] = round(took_peer / took, 1)
        print(
            f"{name:20s} ours {megabytes / took:7.2f}   peer {megabytes / took_peer:7.2f}   ratio {ratios[name]:7.1f}"
        )
    for group in GROUPS:
        same = [a == b for a, b in zip(own[0]["keep"][group], peer[0]["keep"][group], strict=True)]
        print(f"{group:20s} the same decision on {sum(same)} of {len(same)} documents")
    print(json.dumps({"ratios": ratios}))


def main() -> None:
    """Compare; or, given a file of texts, take this program's turn."""
    if len(sys.argv) > 1:
        print(json.dumps(ours(json.loads(Path(sys.argv[1]).read_text()))))
        return
    texts = sample()
    with tempfile.TemporaryDirectory() as folder:
        report(texts, *compare(texts, Path(folder)))


if __name__ == "__main__":
    run(main)
