"""Tokens: the tokenizer that makes them, and the shards that hold them, with whose each token is.

    tokens-00000.bin  tokens-00000.idx  documents-00000.parquet  …  manifest.json

The .bin holds the tokens of the shard's documents one after another, each document ended by the
separator; the .idx is Megatron-core's index (megatron/core/datasets/indexed_dataset.py), so that
Megatron-LM, NeMo and GPT-NeoX can train from it. The sidecar has SIDECAR_SCHEMA.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stages.documents import publish, shard_name, shard_paths
from stages.params import Refusal

INDEX_MAGIC = b"MMIDIDX\x00\x00"
INDEX_VERSION = 1
HEAD_BYTES = len(INDEX_MAGIC) + 9  # of an index, which say what its tokens are
# Megatron-core's code of each token type.
DTYPES: dict[str, tuple[int, np.dtype[np.integer]]] = {"int32": (4, np.dtype("<i4")), "uint16": (8, np.dtype("<u2"))}

# A byte-level vocabulary writes the byte that is printable as itself, the others, in order, as the letters behind
# Latin-1 (Radford et al. 2019).
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = sorted({*range(256)} - {*_PRINTABLE})
ALPHABET = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}

SIDECAR_SCHEMA = pl.Schema(
    {
        "id": pl.String,
        "first_token": pl.Int64,  # within the shard
        "tokens": pl.Int64,  # with the separator
    }
)


def largest_token(dtype: str) -> int:
    """The largest token id that `dtype` ("uint16" or "int32") can hold."""
    return int(np.iinfo(DTYPES[dtype][1]).max)


def write_tokens(folder: Path, number: int, documents: Sequence[NDArray[np.integer]], dtype: str) -> None:
    """Write shard `number` of `folder`: one sequence for each document, as Megatron-core reads it."""
    code, numpy_dtype = DTYPES[dtype]
    lengths = np.array([len(tokens) for tokens in documents], dtype="<i4")
    pointers = np.zeros(len(lengths), dtype="<i8")
    np.cumsum(lengths[:-1].astype("<i8") * numpy_dtype.itemsize, out=pointers[1:])
    header = INDEX_MAGIC + struct.pack("<QBQQ", INDEX_VERSION, code, len(lengths), len(lengths) + 1)
    ends = np.arange(len(lengths) + 1, dtype="<i8")  # every sequence is one document
    _write(folder / shard_name("tokens", number, "bin"), [tokens.astype(numpy_dtype).tobytes() for tokens in documents])
    _write(
        folder / shard_name("tokens", number, "idx"), [header, lengths.tobytes(), pointers.tobytes(), ends.tobytes()]
    )


def _write(path: Path, parts: Sequence[bytes]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.writelines(parts)
    publish(partial, path)


def index_dtype(path: Path) -> np.dtype[np.integer]:
    """The token type that the index file `path` declares.

    Raises:
        Refusal: if it isn't an index that this version reads.
    """
    with path.open("rb") as file:
        return head_dtype(file.read(HEAD_BYTES), str(path))


def head_dtype(head: bytes, where: str) -> np.dtype[np.integer]:
    """The token type that the first HEAD_BYTES of an index declare; `where` names it."""
    codes = dict(DTYPES.values())
    if head[: len(INDEX_MAGIC)] != INDEX_MAGIC or len(head) < HEAD_BYTES or head[-1] not in codes:
        raise Refusal(f"{where} is not a Megatron-core index; remove its folder and run `dvc repro` to make it again")
    return codes[head[-1]]


class Shard(Protocol):
    """The tokens of one shard, of which slices can be read."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, part: slice) -> NDArray[np.integer]:
        """Those of a slice with both ends and no step."""
        ...


class MappedShard:
    """The shard in the file `path`, mapped into memory when it is first read: thousands of them open at once."""

    def __init__(self, path: Path, dtype: np.dtype[np.integer]) -> None:
        self.path, self.dtype = path, dtype
        self._tokens = path.stat().st_size // dtype.itemsize

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, part: slice) -> NDArray[np.integer]:
        return self._map[part]

    @cached_property
    def _map(self) -> NDArray[np.integer]:
        return np.memmap(self.path, dtype=self.dtype, mode="r") if len(self) else np.zeros(0, self.dtype)


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a source, shard after shard, as one sequence that is never loaded whole."""

    shards: tuple[Shard, ...]
    starts: NDArray[np.int64]  # position of the first token of each shard, and the end

    @staticmethod
    def open(folder: Path) -> "TokenStream":
        """The stream over the shards of `folder`, by memory map.

        Raises:
            Refusal: if a shard is missing or truncated, or an index isn't readable.
        """
        indexes = [path for path in shard_paths(folder, "tokens") if path.suffix == ".idx"]
        return TokenStream.of([MappedShard(path.with_suffix(".bin"), index_dtype(path)) for path in indexes])

    @staticmethod
    def of(shards: Sequence[Shard]) -> "TokenStream":
        """The stream over `shards`."""
        starts = np.concatenate([[0], np.cumsum([len(shard) for shard in shards])]).astype(np.int64)
        return TokenStream(tuple(shards), starts)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def parts(self, begin: int, end: int) -> Iterator[tuple[Shard, slice]]:
        """Where the tokens at positions [begin, end) are: slices of shards, in order."""
        number = int(np.searchsorted(self.starts, begin, side="right")) - 1
        while begin < end:
            offset = begin - int(self.starts[number])
            size = min(end - begin, len(self.shards[number]) - offset)
            yield self.shards[number], slice(offset, offset + size)
            begin, number = begin + size, number + 1

    def read(self, begin: int, end: int) -> NDArray[np.int64]:
        """The tokens at positions [begin, end), int64; the range may cross shards."""
        parts = [np.asarray(shard[part], dtype=np.int64) for shard, part in self.parts(begin, end)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def load_tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """The tokenizer in `folder`, and the id of its separator.

    Text that spells a special token is encoded as the text that it is.
    """
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        separator = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
        token = tokenizer.get_vocab()[separator]
    except Exception as error:  # tokenizers raises bare Exception
        raise Refusal(
            f"{folder}/tokenizer.json can't be read ({error}); remove {folder} and run `dvc repro` to make it again"
        ) from error
    tokenizer.encode_special_tokens = True
    return tokenizer, token


def load_mask_token(folder: Path) -> int:
    """The id of the mask token of the tokenizer in `folder`.

    Raises:
        Refusal: if it has none.
    """
    token = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("mask_token")
    if token is None:
        raise Refusal(
            "params.yaml: pretrain.objective is masked, but the tokenizer has no mask token; "
            "set tokenizer.mask_token, for instance to <|mask|>"
        )
    return load_tokenizer(folder)[0].get_vocab()[token]
