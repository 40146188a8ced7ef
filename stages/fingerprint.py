"""Make the fingerprints by which dedup compares documents, of every document of a source, kept by filter or not.

    documents of a source  ->  data/fingerprint/SOURCE: digests, lengths, MinHash signatures

They depend on the texts alone: a new source adds its own to those that are there, and another threshold in filter makes
none again. The method: stages/minhash.py.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from stages.documents import fresh_folder, publish, read_blocks, shard_name, shard_paths, write_manifest, write_shard
from stages.minhash import FINGERPRINT_SCHEMA, FingerprintParams, Signatures, signatures, text_digests
from stages.params import load_params
from stages.process import log, map_shards, run

DOCUMENTS = Path("data/extract")
FINGERPRINTS = Path("data/fingerprint")


def fingerprints(documents: pl.DataFrame, params: FingerprintParams) -> tuple[pl.DataFrame, Signatures]:
    """One row by FINGERPRINT_SCHEMA, and one signature, for each of `documents`, in their order."""
    texts = documents["text"]
    table = documents.select("id", characters=texts.str.len_chars().cast(pl.Int64)).with_columns(
        digest=pl.Series(text_digests(texts), dtype=pl.Binary)
    )
    return table, signatures(texts.to_list(), params)


def fingerprint_shard(shard: tuple[int, Path], target: Path, params: FingerprintParams) -> int:
    """Write the fingerprints of shard (number, documents) into `target`; count them."""
    number, documents = shard
    made = [fingerprints(block, params) for block in read_blocks(documents, ["id", "text"])]
    table = pl.concat([pl.DataFrame(schema=FINGERPRINT_SCHEMA), *(own for own, _ in made)])
    signed = np.concatenate([np.zeros((0, params.hashes), np.uint16), *(own for _, own in made)])
    write_shard(target / shard_name("fingerprints", number), table)
    write_signatures(target / shard_name("signatures", number, "npy"), signed)
    return len(table)


def write_signatures(path: Path, signed: Signatures) -> None:
    """Write `signed` as an array of numpy, whole or not at all. They are too random to be packed."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, signed, allow_pickle=False)
    publish(partial, path)


def main() -> None:
    """Make the fingerprints of the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    source = parser.parse_args().source
    params = load_params(FingerprintParams, "fingerprint")
    shards = list(enumerate(shard_paths(DOCUMENTS / source, "documents")))
    target = fresh_folder(FINGERPRINTS / source)
    work = partial(fingerprint_shard, target=target, params=params)
    count = sum(map_shards(work, shards, f"fingerprint {source}"))
    write_manifest(target, {"read": count})
    log.info("fingerprint %s: %d documents, in %s", source, count, target)


if __name__ == "__main__":
    run(main)
