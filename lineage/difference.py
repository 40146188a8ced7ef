"""The first place in which two files differ, in the words of what they hold.

two files  ->  row and column, token, tensor and index, JSON key, line, or byte

A file is read in pieces; only a table is loaded, column by column.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lineage.plain import plain
from stages.params import Refusal
from stages.tokens import index_dtype

PIECE = 1 << 20
SHOWN = 60  # letters of a value
# Bytes of an element, and how numpy reads it, if it can, by the names of safetensors.
TENSOR_TYPES = {
    "F64": (8, "<f8"), "F32": (4, "<f4"), "F16": (2, "<f2"), "BF16": (2, None), "F8_E4M3": (1, None),
    "F8_E5M2": (1, None), "I64": (8, "<i8"), "I32": (4, "<i4"), "I16": (2, "<i2"), "I8": (1, "i1"), "U8": (1, "u1"),
    "U16": (2, "<u2"), "U32": (4, "<u4"), "U64": (8, "<u8"), "BOOL": (1, "?"),
}  # fmt: skip


class Unreadable(ValueError):
    """A file that doesn't hold what its name says: only its bytes can be compared."""


def difference(first: Path, second: Path) -> str | None:
    """Where and how `second` first differs from `first`; None if they hold the same bytes."""
    offset = first_byte(first, second)
    if offset is None:
        return None
    try:
        if found := _READERS.get(first.suffix, _none)(first, second, offset):
            return found
    except (Unreadable, Refusal, OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        pass  # it is damaged, or something else than its name says
    return f"byte {offset:,}: {_byte(first, offset)} and {_byte(second, offset)}"


def first_byte(first: Path, second: Path) -> int | None:
    """The offset of the first byte that differs, or of the end of the shorter file; None if there is none."""
    begin = 0
    with first.open("rb") as ours, second.open("rb") as theirs:
        while True:
            one, other = ours.read(PIECE), theirs.read(PIECE)
            if one != other:
                length = min(len(one), len(other))
                unequal = np.frombuffer(one[:length], np.uint8) != np.frombuffer(other[:length], np.uint8)
                return begin + (int(unequal.argmax()) if unequal.any() else length)
            if not one:
                return None
            begin += len(one)


def _none(first: Path, second: Path, offset: int) -> str | None:
    return None


def _parquet(first: Path, second: Path, offset: int) -> str | None:
    """The first row with a difference, and the first column in it."""
    ours, theirs = pl.read_parquet_schema(first), pl.read_parquet_schema(second)
    if ours != theirs:
        name = next((name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)), None)
        return f"column {_shown(name)}: {ours.get(name or '')} and {theirs.get(name or '')}" if name else "column order"
    found: tuple[int, str, Any, Any] | None = None
    for name in ours:
        one, other = (pl.read_parquet(path, columns=[name])[name] for path in (first, second))
        rows = min(len(one), len(other))
        unequal = one[:rows].ne_missing(other[:rows])
        row = unequal.arg_max() if unequal.any() else None
        if row is None and len(one) != len(other):
            return f"row {rows:,} is the first that only one has: {len(one):,} and {len(other):,} rows"
        if row is not None and (found is None or row < found[0]):
            found = row, name, one[row], other[row]
    if found is None:
        return f"the same table in other bytes, from byte {offset:,} on"
    return f"row {found[0]:,}, column {_shown(found[1])}: {_shown(found[2])} and {_shown(found[3])}"


def _csv(first: Path, second: Path, offset: int) -> str | None:
    with first.open(encoding="utf-8", newline="") as ours, second.open(encoding="utf-8", newline="") as theirs:
        heading: list[str] = []
        for number, (one, other) in enumerate(zip_longest(csv.reader(ours), csv.reader(theirs))):
            heading = heading or one or []
            if one is None or other is None:
                return f"row {number - 1:,} is the first that only one has"
            for column, (left, right) in enumerate(zip_longest(one, other)):
                if left != right:
                    name = heading[column] if column < len(heading) else str(column)
                    where = f"row {number - 1:,}, column {_shown(name)}" if number else f"heading {column}"
                    return f"{where}: {_shown(left)} and {_shown(right)}"
    return None


def _tokens(first: Path, second: Path, offset: int) -> str | None:
    """The position within the shard, and both tokens."""
    dtype = index_dtype(first.with_suffix(".idx"))
    position = offset // dtype.itemsize
    values = []
    for path in (first, second):
        with path.open("rb") as file:
            file.seek(position * dtype.itemsize)
            data = file.read(dtype.itemsize)
        values.append(str(np.frombuffer(data, dtype)[0]) if len(data) == dtype.itemsize else "the end")
    return f"token {position:,}: {values[0]} and {values[1]}"


@dataclass(frozen=True)
class _Tensor:
    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int  # within the file
    end: int


def _safetensors(first: Path, second: Path, offset: int) -> str | None:
    """The tensor that holds the first differing byte, the index of the element, and both values."""
    ours, theirs = _tensors(first), _tensors(second)
    if ours != theirs:
        left, right = ({tensor.name: tensor for tensor in found} for found in (ours, theirs))
        for name in {**left, **right}:
            one, other = left.get(name), right.get(name)
            if one is None or other is None:
                return f"tensor {_shown(name)} is only in one"
            if (one.kind, one.shape) != (other.kind, other.shape):
                return f"tensor {_shown(name)}: {one.kind} {list(one.shape)} and {other.kind} {list(other.shape)}"
    for tensor in ours:
        if tensor.begin <= offset < tensor.end:
            size = TENSOR_TYPES[tensor.kind][0]
            element = (offset - tensor.begin) // size
            index = [int(axis) for axis in np.unravel_index(element, tensor.shape)] if tensor.shape else []
            values = [_element(path, tensor, element) for path in (first, second)]
            return f"tensor {_shown(tensor.name)}, index {index}: {values[0]} and {values[1]}"
    return f"byte {offset:,} of the header"


def _tensors(path: Path) -> list[_Tensor]:
    """The tensors of `path` as its header has them, in the order of their bytes.

    The format: eight bytes of length, a JSON header, the tensors (https://github.com/huggingface/safetensors).
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise Unreadable(f"{path.name}: its header would be longer than the file")
        header: Mapping[str, Any] = json.loads(file.read(length))
    found = [
        _Tensor(
            name, entry["dtype"], tuple(entry["shape"]), *(8 + length + int(each) for each in entry["data_offsets"])
        )
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    return sorted(found, key=lambda tensor: tensor.begin)


def _element(path: Path, tensor: _Tensor, element: int) -> str:
    size, dtype = TENSOR_TYPES[tensor.kind]
    with path.open("rb") as file:
        file.seek(tensor.begin + element * size)
        data = file.read(size)
    if len(data) < size:
        return "the end"
    if tensor.kind == "BF16":  # the upper half of a float32
        return str(np.frombuffer(b"\0\0" + data, "<f4")[0])
    return str(np.frombuffer(data, dtype)[0]) if dtype else f"0x{data[::-1].hex()}"


def _json(first: Path, second: Path, offset: int) -> str | None:
    ours, theirs = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    found = next(_unequal(ours, theirs, ""), None)
    return found or f"the same values in other bytes, from byte {offset:,} on"


def _unequal(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """The keys at which two JSON values differ, depth first, each with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            name = f"{path}.{key}" if path else str(key)
            if key not in ours or key not in theirs:
                yield f"key {_shown(name)} is only in one"
            else:
                yield from _unequal(ours[key], theirs[key], name)
    elif isinstance(ours, list) and isinstance(theirs, list):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from _unequal(one, other, f"{path}[{number}]")
        if len(ours) != len(theirs):
            yield f"key {_shown(path)}: {len(ours):,} and {len(theirs):,} entries"
    elif type(ours) is not type(theirs) or not (ours == theirs or _both_nan(ours, theirs)):
        yield f"key {_shown(path)}: {_shown(ours)} and {_shown(theirs)}"


def _both_nan(ours: Any, theirs: Any) -> bool:
    return isinstance(ours, float) and isinstance(theirs, float) and math.isnan(ours) and math.isnan(theirs)


def _lines(first: Path, second: Path, offset: int) -> str | None:
    """The number of the first line that differs, from 1 on."""
    with first.open(encoding="utf-8") as ours, second.open(encoding="utf-8") as theirs:
        for number, (one, other) in enumerate(zip_longest(ours, theirs), start=1):
            if one != other:
                return f"line {number:,}: {_shown(one)} and {_shown(other)}"
    return None


_READERS: dict[str, Callable[[Path, Path, int], str | None]] = {
    ".parquet": _parquet, ".csv": _csv, ".bin": _tokens, ".safetensors": _safetensors, ".json": _json,
    ".jsonl": _lines, ".txt": _lines, ".md": _lines, ".py": _lines, ".yaml": _lines,
}  # fmt: skip


def _byte(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        byte = file.read(1)
    return f"0x{byte.hex()}" if byte else "the end"


def _shown(value: Any) -> str:
    """`value` in one line that can't steer a terminal, not longer than SHOWN."""
    if value is None:
        return "nothing"
    text = plain(value if isinstance(value, str) else str(value)).replace("\n", "⏎").replace("\t", " ")
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
