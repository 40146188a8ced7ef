"""Make the fingerprints by which dedup compares documents, of every document of a source, kept by filter or not.

    documents of a source  ->  data/fingerprint/SOURCE: digests, lengths, MinHash signatures, spans

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
from stages.spans import SPAN_SCHEMA, spans_of

DOCUMENTS = Path("data/extract")
FINGERPRINTS = Path("data/fingerprint")


def fingerprints(documents: pl.DataFrame, params: FingerprintParams) -> tuple[pl.DataFrame, Signatures]:
    """One row by FINGERPRINT_SCHEMA, and one signature, for each of `documents`, in their order."""
    digests = text_digests(documents["text"])
    texts = documents["text"].to_list()  # len_chars of Polars takes three times the memory of a long text
    columns = {"id": documents["id"], "characters": list(map(len, texts)), "digest": digests}
    return pl.DataFrame(columns, FINGERPRINT_SCHEMA), signatures(texts, params)


def fingerprint_shard(shard: tuple[int, Path], target: Path, params: FingerprintParams, spans: bool = False) -> int:
    """Write the fingerprints of shard (number, documents) into `target`, with its spans if asked; count them."""
    number, documents = shard
    tables, signed, found = [FINGERPRINT_SCHEMA.to_frame()], [np.zeros((0, params.hashes), np.uint16)], []
    first = 0
    for block in read_blocks(documents, ["id", "text"]):
        table, own = fingerprints(block, params)
        tables.append(table)
        signed.append(own)
        if spans and params.spans:
            found.append(spans_of(block["text"].to_list(), params.spans).with_columns(pl.col("row") + first))
        first += len(block)
    write_shard(target / shard_name("fingerprints", number), pl.concat(tables))
    write_signatures(target / shard_name("signatures", number, "npy"), np.concatenate(signed))
    if spans:
        write_shard(target / shard_name("spans", number), pl.concat([SPAN_SCHEMA.to_frame(), *found]))
    return first


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
    spans = params.spans is not None and params.spans.of(source)
    work = partial(fingerprint_shard, target=target, params=params, spans=spans)
    count = sum(map_shards(work, shards, f"fingerprint {source}"))
    write_manifest(target, {"read": count})
    log.info("fingerprint %s: %d documents, in %s", source, count, target)


if __name__ == "__main__":
    run(main)
