"""Cut a large file into parts that workers read side by side: lines by ranges of bytes, Parquet by row groups.

What a part holds depends on the file and `shard_bytes` alone, and a record has the number that it has in the whole
file: so its id is the same however the file is cut.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet

from stages.extract.records import Part
from stages.process import map_shards

BLOCK_BYTES = 1 << 20
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")

# Bytes of a part, and the part.
Sized = tuple[int, Part]


def line_parts(path: Path, size: int, part_bytes: int) -> list[Sized]:
    """Ranges of `part_bytes`; the lines before each are counted first, once, by all workers. None of UTF-16."""
    with path.open("rb") as file:
        if file.read(2) in UTF_16_MARKS:  # its line ends are no single bytes
            return []
    bounds = [*range(0, size, part_bytes), size]
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


class PartOfLines:
    """The lines of `stream` that begin in a part of it."""

    def __init__(self, stream: IO[bytes], part: Part):
        self.stream, self.end = stream, part.end
        stream.seek(max(part.begin - 1, 0))
        while part.begin and stream.tell() < part.end and not stream.readline(BLOCK_BYTES).endswith(b"\n"):
            pass
        self.within_line = False

    def readline(self, size: int) -> bytes:
        """The next line, or at most `size` bytes of it; nothing after the last line that begins in the part."""
        if not self.within_line and self.stream.tell() >= self.end:
            return b""
        line = self.stream.readline(size)
        self.within_line = not line.endswith(b"\n")
        return line


def row_group_parts(path: Path, size: int, part_bytes: int) -> list[Sized]:
    """Row groups in a row, so many that they fill `part_bytes`. None of a file that can't be read."""
    try:
        with path.open("rb") as file:
            groups = list(_row_groups(pyarrow.parquet.read_metadata(file)))
    except (pyarrow.ArrowException, OSError, ValueError):
        return []
    parts, begin, first, held, rows = [], 0, 0, 0, 0
    for number, (group_bytes, group_rows) in enumerate(groups, start=1):
        held, rows = held + group_bytes, rows + group_rows
        if held >= part_bytes or number == len(groups):
            parts.append((held, Part(begin, number, first)))
            begin, first, held, rows = number, first + rows, 0, 0
    return parts


def _row_groups(metadata: Any) -> Iterator[tuple[int, int]]:
    """Packed bytes and rows of each row group."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = range(group.num_columns)
        yield sum(group.column(column).total_compressed_size for column in columns), group.num_rows


PARTS: dict[str, Callable[[Path, int, int], list[Sized]]] = {"jsonl": line_parts, "parquet": row_group_parts}
