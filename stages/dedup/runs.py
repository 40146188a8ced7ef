"""The keys of each shard's candidates, sorted, on disk; and the links between documents that share one.

    fingerprints and filter's decisions of a shard  ->  a run for each kind of key  ->  pairs of documents

External sorting (Knuth, The Art of Computer Programming 3, 5.4): the key space is cut into ranges so small that what
all runs have in one of them fits into memory, and ranges are read one after another. A candidate's number is its place
among the candidates of all shards, in the order of the shards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from stages.dedup.params import DedupParams
from stages.dedup.split import Draws, draws_of
from stages.documents import read_shard, shard_name, unreadable
from stages.minhash import NO_SHINGLE, FingerprintParams, Signatures, band_keys
from stages.params import Refusal
from stages.words import Hashes, Ints

RANGE = 1 << 21  # keys read at once: some 100 MB with what sorts them
CHUNK = 1 << 16  # signatures read at once
ENTRY = np.dtype([("key", "<u8"), ("candidate", "<u4")])  # counted within the shard
PAIR = np.dtype([("left", "<i8"), ("right", "<i8")])


@dataclass(frozen=True)
class Shard:
    """A shard of a source: its files, and its place among the shards of all sources."""

    place: int
    source: str
    number: int
    fingerprints: Path
    signatures: Path
    decisions: Path  # of filter


@dataclass(frozen=True)
class Run:
    """A shard whose candidates' keys are on disk: of each kind (the digest, then each band) all of them, sorted."""

    shard: Shard
    candidates: int


def read_signatures(path: Path) -> Signatures:
    """The signatures of a shard, mapped: only the rows that are asked for are read.

    Raises:
        Refusal: if the file isn't an array of signatures.
    """
    try:
        found: Signatures = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return found


def candidates(shard: Shard) -> tuple[Ints, pl.Series]:
    """The rows and ids of the documents of `shard` that filter kept: its candidates, in order.

    Raises:
        Refusal: if the decisions are on other documents than the fingerprints.
    """
    decided, made = read_shard(shard.decisions, ["id", "keep"]), read_shard(shard.fingerprints, ["id"])
    if len(decided) != len(made):
        raise Refusal(f"{shard.decisions} has {len(decided)} rows for {len(made)} fingerprints; run `dvc repro`")
    if not decided["id"].equals(made["id"]):
        raise Refusal(f"{shard.decisions} has decisions on other documents than {shard.fingerprints}; run `dvc repro`")
    return np.flatnonzero(decided["keep"].to_numpy()), made["id"].filter(decided["keep"])


def halves(digests: pl.Series) -> Hashes:
    """128-bit digests as two numbers each, shape (digests, 2)."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def write_run(shard: Shard, folder: Path, params: DedupParams, made: FingerprintParams, ranges: int) -> Run:
    """Write the run of a shard into `folder`: its candidates' draws, rows and sorted keys."""
    rows, ids = candidates(shard)
    draws = draws_of(ids, params.seed) if params.held_out else np.zeros(len(ids))
    draws.tofile(path_of(folder, "draws", shard))
    return write_keys(shard, folder, rows, keys_of(shard, rows, made, params.near), ranges)


def write_keys(shard: Shard, folder: Path, rows: Ints, kinds: Hashes, ranges: int) -> Run:
    """Write the `rows` of a shard, and of each kind (shape (kinds, rows)) their sorted keys and the ranges' bounds."""
    rows.astype(np.uint32).tofile(path_of(folder, "rows", shard))
    with path_of(folder, "keys", shard).open("wb") as file, path_of(folder, "bounds", shard).open("wb") as bounds:
        for keys in kinds:
            order = sorted_places(keys)
            entries = np.empty(len(rows), ENTRY)
            entries["key"], entries["candidate"] = keys[order], order
            entries.tofile(file)
            np.array([0, *np.searchsorted(keys[order], begins_of(ranges)), len(rows)], np.int64).tofile(bounds)
    return Run(shard, len(rows))


def keys_of(shard: Shard, rows: Ints, params: FingerprintParams, near: bool) -> Hashes:
    """The candidates' keys: of their digests, then, if `near` ones are looked for, of each band; shape (kinds, rows).

    A text without a shingle has in each band its digest as key: only an equal text is like it.
    """
    digests = halves(read_shard(shard.fingerprints, ["digest"])["digest"].gather(rows))[:, 0]
    keys = np.tile(digests, (1 + params.bands if near else 1, 1))
    if not near:
        return keys
    signed = read_signatures(shard.signatures)
    if signed.shape[1:] != (params.hashes,):
        raise Refusal(f"{shard.signatures} was made with other bands or rows than params.yaml has; run `dvc repro`")
    for begin in range(0, len(rows), CHUNK):
        own = np.ascontiguousarray(signed[rows[begin : begin + CHUNK]].T)
        shingled = (own != NO_SHINGLE).any(axis=0)
        for band in range(params.bands):
            part = keys[1 + band, begin : begin + CHUNK]
            np.copyto(part, band_keys(own[band * params.rows : (band + 1) * params.rows], band), where=shingled)
    return keys


def sorted_places(keys: Hashes) -> Ints:
    """The places of `keys` in the order of their upper bits, which tell them apart, and then by place.

    The lower bits make room for the place: numbers are sorted eight times as fast as places by their numbers.
    """
    bits = np.uint64(len(keys).bit_length())
    packed = (keys >> bits << bits) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    return (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def begins_of(ranges: int) -> Hashes:
    """Where each of the equal ranges of keys but the first begins: where the lower 32 bits are 0 (sorted_places)."""
    return np.array([((number << 32) // ranges) << 32 for number in range(1, ranges)], np.uint64)


def path_of(folder: Path, what: str, shard: Shard) -> Path:
    """The file with the rows, draws, keys or bounds of a run."""
    return folder / shard_name(what, shard.place, "bin")


def read_rows(run: Run, folder: Path) -> Ints:
    """The rows of the candidates of a run."""
    return np.fromfile(path_of(folder, "rows", run.shard), np.uint32).astype(np.int64)


def read_draws(run: Run, folder: Path) -> Draws:
    """The draws of the candidates of a run."""
    return np.fromfile(path_of(folder, "draws", run.shard), np.float64)


def read_range(runs: Sequence[Run], folder: Path, kind: int, number: int, ranges: int) -> tuple[Hashes, Ints]:
    """All keys of one kind in one range, and the numbers of their candidates, by key and then by number."""
    keys, numbers, first = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
    for run in runs:
        at = 8 * (kind * (ranges + 1) + number)
        begin, end = np.fromfile(path_of(folder, "bounds", run.shard), np.int64, 2, offset=at)
        if end > begin:
            at = ENTRY.itemsize * (kind * run.candidates + begin)
            entries = np.fromfile(path_of(folder, "keys", run.shard), ENTRY, end - begin, offset=at)
            keys.append(entries["key"])
            numbers.append(entries["candidate"].astype(np.int64) + first)
        first += run.candidates
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(numbers)[order]


def linked(keys: Hashes, numbers: Ints, sources: Ints | None) -> npt.NDArray[np.void]:
    """Pairs that link every candidate to the first one with the same of the sorted `keys` (and the same source).

    And to the one before it: should its link to the first not hold, that one may.
    """
    new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    if sources is not None:
        new[1:] |= sources[1:] != sources[:-1]
    firsts = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0)) if len(keys) else numbers
    others = np.flatnonzero(~new)
    thirds = others[firsts[others] < others - 1]
    pairs = np.empty(len(others) + len(thirds), PAIR)
    pairs["left"] = numbers[np.append(firsts[others], thirds - 1)]
    pairs["right"] = numbers[np.append(others, thirds)]
    return pairs


def write_links(kind: int, runs: Sequence[Run], folder: Path, ranges: int, across_sources: bool) -> Path:
    """Write the pairs of candidates that share a key of this kind into a file of PAIR."""
    path = folder / shard_name("links", kind, "bin")
    ends = np.cumsum([run.candidates for run in runs])
    names = list(dict.fromkeys(run.shard.source for run in runs))
    sources = np.array([names.index(run.shard.source) for run in runs])
    with path.open("wb") as file:
        for number in range(ranges):
            keys, numbers = read_range(runs, folder, kind, number, ranges)
            own = None if across_sources else sources[np.searchsorted(ends, numbers, side="right")]
            linked(keys, numbers, own).tofile(file)
    return path


def read_links(path: Path) -> Iterator[npt.NDArray[np.void]]:
    """The pairs in a file of write_links, RANGE at a time."""
    count = path.stat().st_size // PAIR.itemsize
    for begin in range(0, count, RANGE):
        yield np.fromfile(path, PAIR, RANGE, offset=PAIR.itemsize * begin)
