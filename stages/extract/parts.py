"""Cut a large file into parts that workers read side by side: ranges of bytes, or row groups of Parquet.

What a part holds depends on the file and `shard_bytes` alone, and a record has the number that it has in the whole
file: so its id is the same however the file is cut.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet

from stages.extract.archives import tar_cuts
from stages.extract.delimited import csv_parts
from stages.extract.encodings import UTF_16
from stages.extract.params import ExtractParams
from stages.extract.records import Part, Sized, unreadable
from stages.extract.references import File, Reference
from stages.process import map_shards

BLOCK_BYTES = 1 << 20


def line_parts(path: Path, size: int, params: ExtractParams) -> list[Sized]:
    """Ranges of `shard_bytes`; the lines before each are counted first, once, by all workers. None of UTF-16."""
    with path.open("rb") as file:
        if file.read(2) in UTF_16:  # its line ends are no single bytes
            return []
    bounds = [*range(0, size, params.shard_bytes), size]
    ranges = list(pairwise(bounds))
    begun = map_shards(partial(lines_begun, path), ranges, f"count the lines of {path.name}")
    firsts = accumulate(begun, initial=0)
    return [(end - begin, Part(begin, end, first)) for (begin, end), first in zip(ranges, firsts, strict=False)]


def lines_begun(path: Path, bounds: tuple[int, int]) -> int:
    """How many lines begin in a range of bytes: at the file's beginning, and after each line's end but its last."""
    begin, end = bounds
    count = 1 if begin == 0 else 0
    position = max(begin - 1, 0)
    with path.open("rb") as file:
        file.seek(position)
        while position < end - 1 and (block := file.read(min(BLOCK_BYTES, end - 1 - position))):
            count += block.count(b"\n")
            position += len(block)
    return count


def tar_parts(path: Path, size: int, params: ExtractParams) -> list[Sized]:
    """Ranges of bytes that begin with a member. None of a file that can't be read."""
    try:
        with path.open("rb") as file:
            bounds = [*tar_cuts(file, params.shard_bytes), size]
    except Exception as error:
        unreadable(error, None)  # raises it again if it isn't the file's
        return []
    return [(end - begin, Part(begin, end, 0)) for begin, end in pairwise(bounds)]


def row_group_parts(file: File, size: int, params: ExtractParams) -> list[Sized]:
    """Row groups in a row, so many that they fill `shard_bytes`. None of a file that can't be read.

    Of it only the end is read, so it may be a file at its URL, too.
    """
    try:
        with file.open("rb") as stream:
            groups = list(_row_groups(pyarrow.parquet.read_metadata(stream)))
    except Exception as error:
        unreadable(error, None)  # raises it again if it isn't the file's
        return []
    parts, begin, first, held, rows = [], 0, 0, 0, 0
    for number, (group_bytes, group_rows) in enumerate(groups, start=1):
        held, rows = held + group_bytes, rows + group_rows
        if held >= params.shard_bytes or number == len(groups):
            parts.append((held, Part(begin, number, first)))
            begin, first, held, rows = number, first + rows, 0, 0
    return parts


def _row_groups(metadata: Any) -> Iterator[tuple[int, int]]:
    """Packed bytes and rows of each row group."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = range(group.num_columns)
        yield sum(group.column(column).total_compressed_size for column in columns), group.num_rows


PARTS: dict[str, Callable[[Any, int, ExtractParams], list[Sized]]] = {
    "jsonl": line_parts,
    "csv": csv_parts,
    "parquet": row_group_parts,
    "tar": tar_parts,
}


def can_cut(file: File, format_: str | None) -> bool:
    """If `file` can be entered in the middle, and it doesn't take all of its bytes to know where."""
    return format_ in PARTS and (not isinstance(file, Reference) or (format_ == "parquet" and not file.is_read_whole))
