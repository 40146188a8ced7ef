"""Whose tokens a sample holds: the documents beside the token shards, asked by position."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from stages.documents import read_shard, shard_paths
from stages.order import Order
from stages.tokens import TokenStream


def documents_of(
    numbers: Iterable[int], order: Order, streams: Mapping[str, TokenStream], tokens: Path, length: int
) -> list[str]:
    """The ids of the documents in the samples with these global numbers, each once, in the order of the samples.

    `tokens` has a folder for each source.
    """
    found: dict[str, None] = {}
    tables: dict[Path, pl.DataFrame] = {}
    for sample in map(order.sample, numbers):
        begin, paths = sample.window * length, shard_paths(tokens / sample.source, "documents")
        for path, first in zip(paths, streams[sample.source].starts.tolist(), strict=False):
            if path not in tables:
                tables[path] = read_shard(path, ["id", "first_token", "tokens"])
            at = first + pl.col("first_token")
            own = tables[path].filter((at < begin + length + 1) & (at + pl.col("tokens") > begin))
            found |= dict.fromkeys(own["id"])
    return list(found)
