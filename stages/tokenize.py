"""Turn the kept documents of a source into token shards.

kept training documents  ->  token shards, and whose each token is
"""

import sys
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from stages.documents import (
    describe,
    fresh_folder,
    kept_of_shard,
    shard_name,
    shard_paths,
    write_manifest,
    write_shard,
)
from stages.encoding import Encoder
from stages.params import Refusal, StageParams, load_params
from stages.process import log, map_shards, run
from stages.tokens import SIDECAR_SCHEMA, largest_token, load_tokenizer, write_tokens

TOKENIZER = Path("models/tokenizer")


class TokenizeParams(StageParams):
    """How tokens are stored."""

    dtype: Literal["uint16", "int32"] = Field("uint16", description="uint16 holds tokens up to 65,535")


def check_vocabulary(vocabulary: int, dtype: str) -> None:
    """Refuse a vocabulary whose largest token the token type can't hold."""
    if vocabulary - 1 > largest_token(dtype):
        raise Refusal(
            f"params.yaml: tokenize.dtype is {dtype}, which holds tokens up to {largest_token(dtype)}, "
            f"but {TOKENIZER} has {vocabulary}; set tokenize.dtype to int32"
        )


@cache
def encoder_of(folder: Path, sha256: str) -> tuple[Encoder, int]:
    """The encoder of the tokenizer in `folder`, and its separator, made once in a process; `sha256` is its file's."""
    tokenizer, separator = load_tokenizer(folder)
    return Encoder.of(tokenizer), separator


def tokenize_shard(shard: tuple[int, Path, Path], folder: Path, dtype: str, sha256: str) -> tuple[int, int, int]:
    """Write shard (number, documents, decisions) into `folder`; count its documents, tokens and bytes of text.

    `sha256` is the tokenizer's.
    """
    number, documents, decisions = shard
    encoder, separator = encoder_of(TOKENIZER, sha256)
    kept = kept_of_shard(documents, decisions, ["id", "text"], "train")
    tokens = [np.append(each, separator) for each in encoder.encode(kept["text"].to_list())]
    lengths = pl.Series("tokens", [len(each) for each in tokens], pl.Int64)
    sidecar = pl.DataFrame({"id": kept["id"], "first_token": lengths.cum_sum() - lengths, "tokens": lengths})
    write_tokens(folder, number, tokens, dtype)
    write_shard(folder / shard_name("documents", number), sidecar.cast(SIDECAR_SCHEMA))
    return len(kept), int(lengths.sum()), int(kept["text"].str.len_bytes().sum())


def main() -> None:
    """Write the token shards of one source: `python -m stages.tokenize SOURCE`."""
    source = sys.argv[1]
    params = load_params(TokenizeParams, "tokenize")
    check_vocabulary(load_tokenizer(TOKENIZER)[0].get_vocab_size(), params.dtype)
    folder = fresh_folder(Path("data/tokenize") / source)
    documents = shard_paths(Path("data/extract") / source, "documents")
    decisions = shard_paths(Path("data/dedup") / source, "decisions")
    shards = list(zip(range(len(documents)), documents, decisions, strict=True))
    sha256 = describe(TOKENIZER / "tokenizer.json")["sha256"]
    work = partial(tokenize_shard, folder=folder, dtype=params.dtype, sha256=sha256)
    counts = map_shards(work, shards, f"tokenize {source}")
    totals = dict(zip(("documents", "tokens", "bytes"), map(sum, zip(*counts, strict=True)), strict=True))
    write_manifest(folder, {**totals, "tokenizer": sha256})
    log.info("tokenize %s: %d documents, %d tokens, in %s", source, totals["documents"], totals["tokens"], folder)


if __name__ == "__main__":
    run(main)
