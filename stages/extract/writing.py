"""Write a shard a batch at a time, so that memory is bound to a batch and not to the shard."""

from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow
import pyarrow.parquet

from stages.documents import publish


class ShardWriter:
    """The Parquet file (zstd) at `path`, whole or not at all. Equal tables make equal bytes; each is a row group."""

    def __init__(self, path: Path, schema: pl.Schema):
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")
        empty = as_arrow(schema.to_frame())
        self.writer: Any = pyarrow.parquet.ParquetWriter(
            self.partial, empty.schema, compression="zstd", compression_level=3, write_statistics=False
        )

    def __enter__(self) -> "ShardWriter":
        return self

    def write(self, table: Any) -> None:
        """Append `table`, of Arrow."""
        if len(table):
            self.writer.write_table(table, row_group_size=len(table))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.close()
        if kind is None:
            publish(self.partial, self.path)


def as_arrow(table: pl.DataFrame) -> Any:
    """`table` in types that every reader of Parquet knows."""
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())


def as_strings(columns: dict[str, list[str | None]]) -> Any:
    """A table whose columns are all text."""
    return pyarrow.table({name: pyarrow.array(values, pyarrow.large_string()) for name, values in columns.items()})
