"""What dedup finds, and what its reduction costs: planted copies, and simulated signatures by the million.

    python -m benchmarks.dedup                        # planted copies: how many are found, how many removals are false
    python -m benchmarks.dedup --documents 10_000_000 # peak memory, time and disk of the stage for so many documents

The signatures are drawn, not made of texts: a tenth of the documents are exact copies of others, a tenth are near ones
with 0.85 of the hashes equal. The stage runs as a build runs it, with one worker, in a temporary folder (--folder:
where that is made; 10 million documents take some 6 GB there). The last line is JSON.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA, document_id, shard_name, write_manifest, write_shard
from stages.fingerprint import fingerprint_shard, write_signatures
from stages.minhash import FingerprintParams, Signatures

SHARD = 250_000  # simulated documents
SOURCES = ("books", "web")
PLANTED = 20_000  # originals of the planted copies, and as many documents that are less alike
LETTERS = "bcdfghjklmnpqrst"
WORDS = ["".join(LETTERS[number >> shift & 15] for shift in (16, 12, 8, 4, 0)) for number in range(30_000)]

Digests = npt.NDArray[np.uint64]


# ---- what both sides lay out -------------------------------------------------------------------------------


def lay_params(root: Path, sources: tuple[str, ...], bands: int) -> None:
    """A project in `root` with these sources and so many bands, all else by default."""
    asked = {"fingerprint": {"bands": bands}, "dedup": {"priority": [sources[0]]}}
    params = {"sources": {name: {} for name in sources}, **asked}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for stage in ("extract", "filter", "fingerprint"):
        for name in sources:
            (root / "data" / stage / name).mkdir(parents=True)


def decisions(ids: pl.Series) -> pl.DataFrame:
    """A filter's decisions that keep all of these documents."""
    absent = [pl.lit(None).cast(dtype).alias(name) for name, dtype in DECISION_SCHEMA.items() if name != "id"]
    table = pl.DataFrame({"id": ids}).with_columns(absent).with_columns(keep=pl.lit(True), origin=pl.lit(""))
    return table.select(DECISION_SCHEMA.names())


def run_dedup(root: Path) -> dict[str, float]:
    """Run the stage in `root`: its seconds, and its peak memory in bytes."""
    environment = os.environ | {"PEDIGREE_WORKERS": "1", "PYTHONPATH": str(Path.cwd())}
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "stages.dedup"], cwd=root, env=environment, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": time.monotonic() - begin, "peak_bytes": peak}


# ---- simulated signatures ----------------------------------------------------------------------------------


def drawn(
    draw: np.random.Generator, count: int, hashes: int, before: tuple[Digests, Signatures]
) -> tuple[Digests, Signatures]:
    """Digests and signatures of a shard, of which a tenth are copies of those `before`, and a tenth are near ones."""
    digests = draw.integers(0, 1 << 64, (count, 2), np.uint64)
    signed = draw.integers(0, 1 << 16, (count, hashes), np.uint16)
    kinds = draw.integers(0, 10, count)
    same, near = (np.flatnonzero((kinds == kind) & (draw.random(count) < (len(before[0]) > 0))) for kind in (0, 1))
    if len(before[0]):
        of = draw.integers(0, len(before[0]), count)
        digests[same], signed[same] = before[0][of[same]], before[1][of[same]]
        equal = draw.random((len(near), hashes)) < 0.85
        signed[near] = np.where(equal, before[1][of[near]], signed[near])
    return digests, signed


def simulate(root: Path, documents: int, bands: int) -> int:
    """Fingerprints and decisions on so many documents, in `root`; the bytes of the fingerprints."""
    lay_params(root, SOURCES, bands)
    hashes = FingerprintParams(bands=bands).hashes
    draw, before = np.random.default_rng(1), (np.zeros((0, 2), np.uint64), np.zeros((0, hashes), np.uint16))
    shards = -(-documents // SHARD)
    for place in range(shards):
        source, count = SOURCES[2 * place // shards], min(SHARD, documents - place * SHARD)
        digests, signed = drawn(draw, count, hashes, before)
        before = digests[:50_000], signed[:50_000]
        raw = draw.bytes(16 * count).hex()
        ids = pl.Series("id", [raw[at : at + 32] for at in range(0, 32 * count, 32)])
        whole = digests.tobytes()
        table = pl.DataFrame(
            {
                "id": ids,
                "characters": draw.integers(200, 20_000, count),
                "digest": pl.Series([whole[at : at + 16] for at in range(0, 16 * count, 16)], dtype=pl.Binary),
            }
        )
        number = place - len(list((root / "data/filter" / SOURCES[0]).iterdir())) * (source == SOURCES[1])
        made = root / "data/fingerprint" / source
        write_shard(made / shard_name("fingerprints", number), table)
        write_signatures(made / shard_name("signatures", number, "npy"), signed)
        write_shard(root / "data/filter" / source / shard_name("decisions", number), decisions(ids))
    for source in SOURCES:
        kept = documents if source == SOURCES[0] else 0
        write_manifest(root / "data/fingerprint" / source, {"read": kept})
        write_manifest(root / "data/filter" / source, {"kept": kept})
    return sum(path.stat().st_size for path in (root / "data/fingerprint").rglob("*.*"))


def measure(root: Path, documents: int, bands: int) -> dict[str, Any]:
    """What dedup takes for so many simulated documents."""
    bytes_of_fingerprints = simulate(root, documents, bands)
    told: dict[str, Any] = run_dedup(root)
    counts = [json.loads((root / f"data/dedup/{name}/manifest.json").read_text())["counts"] for name in SOURCES]
    dropped = sum(sum(each["dropped"].values()) for each in counts)
    print(
        f"{documents:,} documents, {bytes_of_fingerprints / 1e9:.2f} GB of fingerprints, one worker: "
        f"{told['seconds']:.0f} s, peak memory {told['peak_bytes'] / 1e6:.0f} MB, {dropped:,} dropped"
    )
    return {"documents": documents, "fingerprint_bytes": bytes_of_fingerprints, "dropped": dropped, **told}


# ---- planted copies ----------------------------------------------------------------------------------------


def edited(words: list[str], share: float, draw: random.Random) -> list[str]:
    """`words` with exactly this share of them replaced."""
    changed = list(words)
    for place in draw.sample(range(len(words)), round(share * len(words))):
        changed[place] = draw.choice(WORDS)
    return changed


def planted(count: int) -> list[list[str]]:
    """Originals, then a copy of each half: with 2% of the words edited, and with 6% to 40%."""
    draw = random.Random(1)
    originals = [draw.choices(WORDS, k=int(min(100 * draw.paretovariate(1.2), 5000))) for _ in range(count)]
    half = count // 2
    copies = [edited(words, 0.02, draw) for words in originals[:half]]
    return originals + copies + [edited(words, draw.uniform(0.06, 0.4), draw) for words in originals[half:]]


def jaccard(one: list[str], other: list[str]) -> float:
    """By the book: equal 5-grams of words over all of them."""
    sets = [{tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (one, other)]
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


def find(root: Path, count: int = PLANTED) -> dict[str, Any]:
    """How many planted copies dedup finds, and how many of its removals have a true similarity below 0.6."""
    documents = planted(count)
    made = FingerprintParams()
    lay_params(root, ("texts",), made.bands)
    ids = pl.Series("id", [document_id("texts", str(place)) for place in range(len(documents))])
    texts = [" ".join(words) for words in documents]
    absent = [
        pl.lit(None).cast(dtype).alias(name) for name, dtype in DOCUMENT_SCHEMA.items() if name not in ("id", "text")
    ]
    path = root / "data/extract/texts" / shard_name("documents", 0)
    write_shard(path, pl.DataFrame({"id": ids, "text": texts}).with_columns(absent))
    fingerprint_shard((0, path), root / "data/fingerprint/texts", made)
    write_manifest(root / "data/fingerprint/texts", {})
    write_shard(root / "data/filter/texts" / shard_name("decisions", 0), decisions(ids))
    write_manifest(root / "data/filter/texts", {"kept": len(ids)})
    run_dedup(root)
    ledger = pl.read_parquet(root / "data/dedup/texts/decisions-00000.parquet").with_row_index("place")
    place = dict(zip(ledger["id"], ledger["place"], strict=True))
    removed = [
        (own, place[other]) for own, other in ledger.filter(~pl.col("keep")).select("place", "duplicate_of").iter_rows()
    ]
    half = count // 2
    found = sum(abs(own - other) == count and min(own, other) < half for own, other in removed)
    false = sum(jaccard(documents[own], documents[other]) < 0.6 for own, other in removed)
    print(
        f"{half:,} copies with 2% of the words edited: {found / half:.2%} found; {len(removed):,} removed in all, "
        f"{false / max(len(removed), 1):.2%} of them with a true similarity below 0.6"
    )
    return {"found": found / half, "false_removals": false / max(len(removed), 1)}


def main() -> None:
    """Measure what is asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, help="simulate so many, in place of planting copies")
    parser.add_argument("--bands", type=int, default=FingerprintParams().bands, help="fewer of them need less disk")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        root = Path(folder)
        print(json.dumps(measure(root, asked.documents, asked.bands) if asked.documents else find(root)))


if __name__ == "__main__":
    main()
