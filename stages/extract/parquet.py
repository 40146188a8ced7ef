"""Read Parquet a row at a time, so that memory is bound to a page and a row, not to a row group."""

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain, count
from typing import IO, Any

import pyarrow.ipc
import pyarrow.parquet

from stages.extract.columns import from_columns
from stages.extract.encodings import decoded
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Part, tried, unreadable

READ_BYTES = 4 << 20  # at once, of each column
LARGE_BYTES = 32 << 20  # of a row, that goes through a file


def read_parquet(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each row."""
    file = pyarrow.parquet.ParquetFile(stream, buffer_size=READ_BYTES, pre_buffer=False)
    return read_row_groups(file, params, Part(0, file.num_row_groups, 0))


def read_part_of_parquet(stream: IO[bytes], name: str, params: ExtractParams, part: Part) -> Iterator[Found]:
    """One document for each row of the row groups in a part of the file."""
    return read_row_groups(pyarrow.parquet.ParquetFile(stream, buffer_size=READ_BYTES, pre_buffer=False), params, part)


def read_row_groups(file: Any, params: ExtractParams, part: Part) -> Iterator[Found]:
    """One document for each row; of a row group that breaks, what comes before, and then the next group."""
    first = part.first
    for group in range(part.begin, part.end):
        end = first + file.metadata.row_group(group).num_rows
        numbers = count(first)
        try:
            yield from map(partial(_found_in, params), numbers, rows_of(file, group, params.columns()))
        except Exception as error:
            number = next(numbers) - 1  # map had taken this one before the row that wasn't there
            broken = unreadable(error, number)
            yield broken._replace(detail=f"{end - number} rows of row group {group}: {broken.detail}")
        first = end


def rows_of(file: Any, group: int, wanted: set[str]) -> Iterator[Any]:
    """The `wanted` columns of each row of a row group, as a batch of Arrow that has one row.

    A batch of one costs 10 µs more a row than one of many, but a hundred rows of 10 MB are a gigabyte.
    """
    columns = [column for column in file.schema_arrow.names if column in wanted]
    batches = file.iter_batches(batch_size=1, row_groups=[group], columns=columns, use_threads=False)
    for batch in batches:
        if batch.get_total_buffer_size() > LARGE_BYTES:
            rest = chain([batch], batches)
            del batch
            yield from _by_way_of_a_file(rest)
            return
        yield batch


def _by_way_of_a_file(batches: Iterator[Any]) -> Iterator[Any]:
    """`batches`, once all are written to a file.

    Beside a large row, its page is in memory, packed and unpacked, until the reader is done with the group; this lets
    them go before anyone works on the row.
    """
    broken: Exception | None = None
    with tempfile.TemporaryFile() as file:
        first = next(batches)
        with pyarrow.ipc.new_stream(file, first.schema) as writer:
            writer.write_batch(first)
            del first
            try:
                for batch in batches:
                    writer.write_batch(batch)
                    del batch
            except Exception as error:
                broken = error
        pyarrow.default_memory_pool().release_unused()
        file.seek(0)
        yield from pyarrow.ipc.open_stream(file)
    if broken is not None:
        raise broken


def _found_in(params: ExtractParams, number: int, row: Any) -> Found:
    """The document of a row, or why there is none."""
    return tried(partial(_from_row, row, number, params), number)


def _from_row(row: Any, number: int, params: ExtractParams) -> Found:
    values = {name: row.column(index)[0].as_py() for index, name in enumerate(row.schema.names)}
    text = values.get(params.text_column)
    if isinstance(text, bytes):  # written without the mark that they are text
        values[params.text_column] = decoded(text)
    return from_columns(values, number, params)
