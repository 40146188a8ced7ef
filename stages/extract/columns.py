"""A row of jsonl, CSV or Parquet as a record, by the columns that the parameters name."""

from typing import Any

from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record, Unreadable, known


def from_columns(values: dict[str, Any], number: int, params: ExtractParams) -> Found:
    """The document in a row, by the columns that the parameters name."""
    text = values.get(params.text_column)
    if not isinstance(text, str):
        found = f"holds {type(text).__name__}" if params.text_column in values else "is missing"
        return Unreadable("no_text", f"column {params.text_column} {found}", number)
    return Record(
        text,
        number,
        license=_value(values, params.license_column),
        date=_value(values, params.date_column),
        language=_value(values, params.language_column),
        meta=known(id=_value(values, params.id_column), url=_value(values, params.url_column)),
    )


def _value(values: dict[str, Any], column: str | None) -> str | None:
    value = values.get(column) if column else None
    if value is None:
        return None
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
