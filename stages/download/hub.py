"""A dataset of Hugging Face's hub, or of a mirror in a folder, streamed into Parquet shards of one size.

Nothing that the dataset brings along is run: `datasets` reads files of data only. A shard that is whole is kept with
the place in the stream behind it, where a broken download goes on.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from stages.documents import publish, shard_name, write_json
from stages.download.made import fill_made, is_the_same, refuse_another, taken
from stages.download.params import HubParams
from stages.download.scratch import digest_of, folder_of
from stages.locked import Locked, LockedFile, drifted
from stages.params import Refusal
from stages.remote import Interrupted, Pace, asked, pace_of, patiently

log = logging.getLogger("pedigree")

SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "id", "url", "date", "license")])
ROW_GROUP_ROWS = 1000
STATE = "state.json"


def ask(params: HubParams, source: str, before: Locked | None) -> Locked:
    """The shards of the dataset at the commit that its revision is now; those of `before` if that is the same.

    Raises:
        Refusal: if it can't be had.
    """
    pace = pace_of(source)
    revision = None if params.is_folder else _commit_of(params, pace)
    if before and revision and is_the_same(before, revision, url_of(params, revision)):
        return before
    return Locked(kind="hub", revision=revision, files=tuple(_streamed(params, source, revision, pace)))


def fill(params: HubParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the locked shards into `folder`, streamed from the locked commit if scratch doesn't have them.

    Raises:
        Refusal: if the parameters mean something else than was locked, or the shards come out otherwise.
    """
    refuse_another(source, locked, url_of(params, locked.revision))
    if params.is_commit and params.revision != locked.revision:
        raise drifted(source, [f"revision {params.revision} (locked: {locked.revision})"])
    fill_made(source, locked, folder, lambda: _streamed(params, source, locked.revision, pace_of(source)))


def url_of(params: HubParams, revision: str | None) -> str:
    """What is asked for: dataset, commit, and what is made of it."""
    asked_for = params.model_dump(exclude={"kind", "dataset", "revision"}, exclude_none=True)
    where = params.dataset if params.is_folder else f"hf://datasets/{params.dataset}@{revision}"
    return f"{where}?{urlencode(asked_for)}"


def _commit_of(params: HubParams, pace: Pace) -> str:
    import_datasets(pace)
    from huggingface_hub import HfApi

    found = patiently(
        lambda: asked(lambda: HfApi().dataset_info(params.dataset, revision=params.revision), params.where, pace),
        params.where,
    )
    return str(found.sha)


def _streamed(params: HubParams, source: str, revision: str | None, pace: Pace) -> list[LockedFile]:
    """The shards of the dataset, which scratch keeps from now on."""
    url = url_of(params, revision)
    folder = folder_of(source) / hashlib.sha256(json.dumps([url, _mirrored(params)]).encode()).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    while not _state(folder)["done"]:
        patiently(lambda: _go_on(params, revision, folder, pace), url)
    files = [taken(path, url) for path in sorted(folder.glob("*.parquet"))]
    if not files:
        raise Refusal(f"{params.where} has no row in split {params.split}; correct the split in params.yaml")
    return files


def _mirrored(params: HubParams) -> list[list[Any]]:
    """What a mirror in a folder holds: it has no commit by which a change would be seen."""
    if not params.is_folder:
        return []
    files = sorted(path for path in Path(params.dataset).rglob("*") if path.is_file())
    return [[str(path.relative_to(params.dataset)), digest_of(path)] for path in files]


def _state(folder: Path) -> dict[str, Any]:
    """How far the stream has come: the number of whole shards, and the place behind them."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"shards": 0, "place": None, "done": False}
    return state


def _go_on(params: HubParams, revision: str | None, folder: Path, pace: Pace) -> None:
    """Write the shards that are missing.

    Raises:
        Interrupted: if the stream broke off.
    """
    before = _state(folder)["shards"]
    try:
        asked(lambda: _write_shards(params, revision, folder, pace), params.where, pace)
    except Interrupted as trouble:
        raise Interrupted(str(trouble), advanced=_state(folder)["shards"] > before) from trouble


def _write_shards(params: HubParams, revision: str | None, folder: Path, pace: Pace) -> None:
    state = _state(folder)
    stream = _stream(params, revision, pace)
    if state["place"]:
        stream.load_state_dict(state["place"])
    rows = (_row(each, params.columns()) for each in stream)
    number = state["shards"]
    while written := _write_shard(rows, folder / shard_name("part", number), params.shard_bytes):
        number += 1
        log.info("%s: %d shards, %d rows in the last", params.where, number, written)
        write_json(folder / STATE, {"shards": number, "place": stream.state_dict(), "done": False})
    write_json(folder / STATE, {"shards": number, "place": None, "done": True})


def _write_shard(rows: Iterator[dict[str, str | None]], path: Path, shard_bytes: int) -> int:
    """Write the next shard: the rows up to that which fills `shard_bytes` of text; how many, 0 at the end."""
    partial = path.with_name(f".{path.name}.partial")
    written = size = 0
    group: list[dict[str, str | None]] = []
    with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for row in rows:
            group.append(row)
            written += 1
            size += len((row["text"] or "").encode("utf-8", "surrogatepass"))
            if len(group) == ROW_GROUP_ROWS or size >= shard_bytes:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group = []
            if size >= shard_bytes:
                break
        if group:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    if written:
        publish(partial, path)
    else:
        partial.unlink()
    return written


def _row(values: dict[str, Any], columns: dict[str, str]) -> dict[str, str | None]:
    """A row of SCHEMA; a text that is none is null, which extract will say."""
    text = values[columns["text"]]
    row: dict[str, str | None] = {"text": text if isinstance(text, str) else None}
    for name, column in columns.items():
        if name != "text":
            value = values[column]
            row[name] = value.isoformat() if hasattr(value, "isoformat") else None if value is None else str(value)
    return row


def _stream(params: HubParams, revision: str | None, pace: Pace) -> Any:
    """The rows of the split, with the columns that are asked for."""
    datasets = import_datasets(pace)
    stream = datasets.load_dataset(params.dataset, params.config, split=params.split, revision=revision, streaming=True)
    known = stream.column_names or []
    if missing := sorted(set(params.columns().values()) - set(known)):
        raise Refusal(
            f"{params.where} has no column {missing[0]}, it has {', '.join(known)}; correct it in params.yaml"
        )
    return stream.select_columns(sorted(set(params.columns().values())))


def import_datasets(pace: Pace) -> Any:
    """The library, which asks the hub at this pace.

    Raises:
        Refusal: if it isn't installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        from huggingface_hub import get_session
    except ImportError:
        raise Refusal(
            "a source of kind hub needs the package datasets; run `pip install 'pedigree[sources]'`"
        ) from None
    datasets.disable_progress_bars()
    session = get_session()
    hooks = session.event_hooks
    if not any(getattr(hook, "__self__", None) is pace for hook in hooks["request"]):
        hooks["request"].append(pace.before)
        session.event_hooks = hooks
    return datasets
