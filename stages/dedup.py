"""Find duplicates among the kept documents of all sources, and split off the held-out ones.

    kept documents  ->  digests and MinHash signatures  ->  groups of duplicates  ->  decisions

Exact duplicates have the same text but for case and white space. Near-duplicates share a band of
their MinHash signatures (Broder 1997; banding by Leskovec et al., Mining of Massive Datasets, 3.4;
figures of FineWeb, Penedo et al. 2024, arXiv:2406.17557, section 3.4). Of each connected component
the longest text is kept, of equals the one with the smallest id. What is held out for evaluation is
split off last, so that no duplicate of it is left to train on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.documents import (
    DECISION_SCHEMA,
    fresh_folder,
    read_shard,
    shard_name,
    shard_paths,
    source_folders,
    write_manifest,
    write_shard,
)
from stages.params import PARAMS_FILE, Refusal, StageParams, load_params
from stages.process import log, map_shards, run
from stages.words import BASE, UNICODE, Buffer, Hashes, Ints, batches, buffer_of, character_class, mixed, shifted

DOCUMENTS = Path("data/extract")
FILTERED = Path("data/filter")
DECISIONS = Path("data/dedup")

# Shingles hashed at once: small enough for the processor's cache.
BLOCK = 1 << 17

Signatures = npt.NDArray[np.uint32]


class DedupParams(StageParams):
    """Duplicates, and the held-out split.

    Two documents of Jaccard similarity s are found with probability 1 - (1 - s^rows)^bands: at the
    default 0.56 for s = 0.7, 0.92 for 0.8.
    """

    held_out: float = Field(0.0, ge=0, lt=1, description="share of the kept documents that is never trained on")
    near: bool = Field(True, description="find near-duplicates, not only exact ones")
    ngram: int = Field(5, ge=1, le=32, description="words in a shingle")
    bands: int = Field(14, ge=1, le=256, description="bands of a signature")
    rows: int = Field(8, ge=1, le=64, description="hashes in a band")
    seed: int = Field(1, ge=0, lt=1 << 63, description="of the hashes, and of the split")


# ---- what is compared -------------------------------------------------------------------------------------


def text_digests(texts: pl.Series) -> list[bytes]:
    """The 128-bit digest of each text in lower case, with any white space as one blank and none at the ends."""
    lower = texts.str.to_lowercase()  # Polars brings its own Unicode tables: the same under every Python
    return [hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest() for text in lower]


@cache
def folding() -> npt.NDArray[np.uint32]:
    """For each code point the one that stands for it in a shingle; 0: none does, it is skipped.

    As FineWeb's: lower case, letters without their accents, digits as `0`, marks and white space as
    a blank.
    """
    letters = np.flatnonzero(character_class(r"\w"))
    lower = pl.Series("lower", map(chr, letters), pl.String).str.to_lowercase()
    bare = lower.str.normalize("NFD").str.replace_all(r"\p{M}", "").alias("bare")
    # What is more than a letter with accents stays whole: the syllables of Hangul.
    simple = pl.select(pl.when(bare.str.len_chars() == 1).then(bare).otherwise(lower.str.head(1))).to_series()
    table = np.full(UNICODE, ord(" "), np.uint32)
    table[letters] = np.frombuffer("".join(simple).encode("utf-32-le"), "<u4")
    table[character_class(r"\p{Nd}")] = ord("0")
    table[character_class(r"\p{M}")] = 0
    return table


def shingles(texts: list[str], ngram: int) -> tuple[npt.NDArray[np.uint32], Ints]:
    """A hash of every `ngram` words in a row, and where those of each text begin (and, last, their number)."""
    words, bounds_of_words = folded_words(texts)
    number = np.maximum(np.diff(bounds_of_words) - ngram + 1, 0)
    bounds = np.append(0, np.cumsum(number))
    begins = np.arange(bounds[-1]) + np.repeat(bounds_of_words[:-1] - bounds[:-1], number)
    hashes = words[begins]
    for offset in range(1, ngram):
        hashes = hashes * BASE + words[begins + offset]
    return (mixed(hashes) >> np.uint64(32)).astype(np.uint32), bounds


def folded_words(texts: list[str]) -> tuple[Hashes, Ints]:
    """A hash of every word after folding, and where those of each text begin (and, last, their number)."""
    buffer = folded_buffer(texts)
    inside = buffer.codes != ord(" ")
    starts = np.flatnonzero(inside & ~shifted(inside, 1))
    ends = np.flatnonzero(inside & ~shifted(inside, -1)) + 1
    return buffer.spans.of(starts, ends), buffer.locate(starts)


def folded_buffer(texts: list[str]) -> Buffer:
    """The texts as one buffer of folded characters; a blank stands for every newline."""
    buffer = buffer_of(texts)
    codes = folding().take(buffer.codes)
    kept = codes > 0
    if kept.all():
        return Buffer(codes, buffer.starts, buffer.ends)
    places = np.append(0, np.cumsum(kept))
    return Buffer(codes[kept], places[buffer.starts], places[buffer.ends])


def multipliers(params: DedupParams) -> npt.NDArray[np.uint32]:
    """The odd numbers that make one hash function each of multiplication modulo 2^32."""
    count = params.bands * params.rows
    return np.random.Generator(np.random.PCG64(params.seed)).integers(0, 1 << 31, count, dtype=np.uint32) * 2 + 1


def signatures(texts: list[str], params: DedupParams) -> Signatures:
    """The MinHash signature of each text, shape (texts, bands * rows).

    All ones for a text that has fewer than `ngram` words, hence no shingle.
    """
    parts = [signatures_of(*shingles(texts[part], params.ngram), multipliers(params)) for part in batches(texts)]
    return np.concatenate([np.zeros((0, params.bands * params.rows), np.uint32), *parts])


def signatures_of(hashes: npt.NDArray[np.uint32], bounds: Ints, multipliers: npt.NDArray[np.uint32]) -> Signatures:
    """The least of the `hashes[bounds[t]:bounds[t + 1]]` of each text t under each of the hash functions."""
    least = np.full((len(bounds) - 1, len(multipliers)), 0xFFFFFFFF, np.uint32)
    for begin in range(0, len(hashes), BLOCK):
        block = hashes[begin : begin + BLOCK]
        first = np.searchsorted(bounds, begin, "right") - 1
        last = np.searchsorted(bounds, begin + len(block), "left")
        present = first + np.flatnonzero(np.diff(bounds[first : last + 1]))
        starts = np.maximum(bounds[present] - begin, 0)
        for column, multiplier in enumerate(multipliers):
            found = np.minimum.reduceat(block * multiplier, starts)
            least[present, column] = np.minimum(least[present, column], found)
    return least


# ---- who is a duplicate of whom ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """The documents that filter kept, of one shard or of all."""

    ids: list[str]
    lengths: list[int]  # of the texts, in characters
    digests: list[bytes]
    signatures: Signatures


def candidates_of(shard: Sequence[Path], params: DedupParams) -> Candidates:
    """Digests and signatures of the documents in shard (documents, decisions) that filter kept."""
    documents, decisions = shard
    table, decided = read_shard(documents, ["id", "text"]), read_shard(decisions, ["keep"])
    if len(table) != len(decided):
        raise Refusal(f"{decisions} has {len(decided)} rows for {len(table)} documents; run `dvc repro`")
    kept = table.filter(decided["keep"])
    width = params.bands * params.rows if params.near else 0
    found = signatures(kept["text"].to_list(), params) if width else np.zeros((len(kept), 0), np.uint32)
    return Candidates(kept["id"].to_list(), kept["text"].str.len_chars().to_list(), text_digests(kept["text"]), found)


def joined(parts: list[Candidates]) -> Candidates:
    """All `parts` as one, in order."""
    return Candidates(
        [each for part in parts for each in part.ids],
        [each for part in parts for each in part.lengths],
        [each for part in parts for each in part.digests],
        np.concatenate([part.signatures for part in parts]),
    )


def edges(candidates: Candidates, params: DedupParams) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of duplicates: for the digests, then for each band, what links all that are equal."""
    yield chained(np.array([int.from_bytes(digest[:8], "little") for digest in candidates.digests], np.uint64))
    if not params.near:
        return
    shingled = np.flatnonzero((candidates.signatures != 0xFFFFFFFF).any(axis=1))
    for band in range(params.bands):
        rows = candidates.signatures[shingled, band * params.rows : (band + 1) * params.rows]
        left, right = chained(band_keys(rows))
        yield shingled[left], shingled[right]


def band_keys(rows: Signatures) -> Hashes:
    """One 64-bit hash of each row."""
    keys = np.zeros(len(rows), np.uint64)
    for column in range(rows.shape[1]):
        keys = mixed(keys + rows[:, column])
    return keys


def chained(keys: Hashes) -> tuple[Ints, Ints]:
    """Pairs of indices that link all equal `keys` into a chain."""
    order = np.argsort(keys, kind="stable")
    equal = keys[order][1:] == keys[order][:-1]
    return order[:-1][equal], order[1:][equal]


def kept_of(candidates: Candidates, params: DedupParams) -> Ints:
    """For each document the one that is kept of its component: the longest, then the one with the smallest id."""
    count = len(candidates.ids)
    pairs = list(edges(candidates, params))
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(left), np.int32), (left, right)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    best_first = np.lexsort((np.array(candidates.ids), -np.array(candidates.lengths)))
    winners = np.empty(count, np.int64)
    winners[labels[best_first[::-1]]] = best_first[::-1]  # the last to write is the best
    kept: Ints = winners[labels]
    return kept


def similarities(signatures: Signatures, others: Ints) -> npt.NDArray[np.float64]:
    """The estimated Jaccard similarity of each document and its other: the share of equal hashes."""
    width = signatures.shape[1]
    equal = [int(np.count_nonzero(own == signatures[other])) for own, other in zip(signatures, others, strict=True)]
    shares: npt.NDArray[np.float64] = np.array(equal, np.float64) / max(width, 1)
    return shares


def decide(candidates: Candidates, params: DedupParams) -> pl.DataFrame:
    """One row for each candidate, in order: id, keep, rule, duplicate_of, similarity."""
    winners = kept_of(candidates, params)
    dropped = winners != np.arange(len(winners))
    exact = np.array([candidates.digests[own] == candidates.digests[kept] for own, kept in enumerate(winners)])
    ids = pl.Series(candidates.ids, dtype=pl.String)
    similarity = np.where(exact, 1.0, similarities(candidates.signatures, winners))
    rule = pl.Series(np.where(exact, "exact_duplicate", "near_duplicate"), dtype=pl.String)
    table = pl.DataFrame(
        {"id": ids, "keep": ~dropped, "rule": rule, "duplicate_of": ids[winners], "similarity": similarity}
    )
    absent = pl.when(~pl.col("keep"))
    return table.with_columns(absent.then(pl.col(name)) for name in ("rule", "duplicate_of", "similarity"))


# ---- the held-out split ------------------------------------------------------------------------------------


def splits(ids: list[str], params: DedupParams) -> list[str]:
    """`held_out` or `train` for each kept document of one source, by a hash of its id.

    A source of two or more documents has at least one of each, unless nothing is to be held out:
    the one with the least hash is held out, the one with the greatest is not.
    """
    draws = [draw(id, params.seed) for id in ids]
    held = [value < params.held_out for value in draws]
    if params.held_out and len(ids) > 1:
        held[draws.index(min(draws))] = True
    if held:
        held[draws.index(max(draws))] = False
    return ["held_out" if each else "train" for each in held]


def draw(id: str, seed: int) -> float:
    """A number in [0, 1) that depends on `id` and `seed` alone."""
    digest = hashlib.blake2b(f"{seed}\0{id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


# ---- the stage ---------------------------------------------------------------------------------------------


def ledger(filtered: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """filter's decisions on a shard, and in place of those that it kept dedup's, by DECISION_SCHEMA."""
    ours = decided.select("id", *(pl.col(name).alias(f"{name}_here") for name in decided.columns if name != "id"))
    both = filtered.join(ours, on="id", how="left", validate="1:1", maintain_order="left")
    return both.select(
        pl.coalesce(f"{name}_here", name).alias(name) if f"{name}_here" in both.columns else pl.col(name)
        for name in DECISION_SCHEMA
    )


def counts_of(decided: pl.DataFrame) -> dict[str, Any]:
    """What becomes a manifest's counts: read, kept, dropped by rule, and the two splits."""
    rules, split = decided["rule"].drop_nulls(), decided["split"]
    return {
        "read": len(decided),
        "kept": int(decided["keep"].sum()),
        "dropped": {rule: int((rules == rule).sum()) for rule in sorted(rules.unique())},
        "held_out": int((split == "held_out").sum()),
        "train": int((split == "train").sum()),
    }


def check_counts(source: str, counts: dict[str, Any]) -> None:
    """Assert that no document is lost; refuse a source without one to train on."""
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["read"]
    assert counts["held_out"] + counts["train"] == counts["kept"]
    if not counts["train"]:
        raise Refusal(
            f"{PARAMS_FILE}: source {source} has no document to train on after dedup: all {counts['read']} "
            f"that its filter kept are duplicates of other sources' documents; take it out, or set dedup.near to false"
        )


def with_splits(decided: pl.DataFrame, params: DedupParams) -> pl.DataFrame:
    """`decided` of one source with the column split, null for what is dropped."""
    kept = decided["id"].filter(decided["keep"]).to_list()
    split = pl.DataFrame({"id": kept, "split": splits(kept, params)}, schema={"id": pl.String, "split": pl.String})
    return decided.join(split, on="id", how="left", validate="1:1", maintain_order="left")


def write_source(source: str, decided: pl.DataFrame, counts: dict[str, Any]) -> None:
    """Write the ledger of one source, shard by shard."""
    target = fresh_folder(DECISIONS / source)
    for number, shard in enumerate(shard_paths(FILTERED / source, "decisions")):
        write_shard(target / shard_name("decisions", number), ledger(read_shard(shard), decided))
    write_manifest(target, counts)
    log.info("dedup %s: %d read, %d kept, dropped: %s", source, counts["read"], counts["kept"], counts["dropped"])


def shards_of_sources() -> list[tuple[str, Path, Path]]:
    """Every shard of every source: its name, documents, and filter's decisions on them."""
    documents, filtered = source_folders(DOCUMENTS), source_folders(FILTERED)
    return [
        (source, *pair)
        for source, folder in documents.items()
        for pair in zip(shard_paths(folder, "documents"), shard_paths(filtered[source], "decisions"), strict=True)
    ]


def main() -> None:
    """Decide on the documents of all sources."""
    params = load_params(DedupParams, "dedup")
    shards = shards_of_sources()
    parts = map_shards(partial(candidates_of, params=params), [pair for _, *pair in shards], "dedup")
    sources = [source for (source, *_), part in zip(shards, parts, strict=True) for _ in part.ids]
    decided = decide(joined(parts), params).with_columns(source=pl.Series(sources, dtype=pl.String))
    tables = {
        source: with_splits(decided.filter(pl.col("source") == source).drop("source"), params)
        for source in dict.fromkeys(source for source, *_ in shards)
    }
    counts = {source: counts_of(table) for source, table in tables.items()}
    for source in tables:  # all of them before the first is written
        check_counts(source, counts[source])
    for source, table in tables.items():
        write_source(source, table, counts[source])


if __name__ == "__main__":
    run(main)
