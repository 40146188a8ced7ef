"""The whole way of a document through a build: from its file to the checkpoints, or to the decision that ended it.

a build, and the place of a document in it  ->  Way: everything known, with what isn't known and why
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lineage.checkout import Missing, lay_out
from lineage.documents import DEDUP, EXTRACT, FILTER, TOKENIZE, Place, by_ids, row_of
from lineage.history import LOCK, Build
from lineage.steps import Plan, seen
from lineage.training import stream_of
from stages.documents import read_manifest, read_shard, shard_paths
from stages.filter import FilterParams, Rule, rules
from stages.params import Refusal, parse_params

SNIPPET_CHARACTERS = 240
SIZES = ("characters", "bytes", "words")
# What extract took out of a text or masked in it, where it counts that.
CHANGES = re.compile(r"lines_removed|masked_.+")


@dataclass(frozen=True)
class Question:
    """A rule of filter as it stood in that build, and what was measured for it."""

    rule: str
    measured: float | str | None  # None: nothing was measured, which breaks no bound
    relation: str  # at least, at most, one of
    threshold: Any
    holds: bool


@dataclass(frozen=True)
class End:
    """The one decision that ended the way of a document."""

    stage: str
    rule: str
    value: float | None = None
    threshold: float | None = None
    detail: str | None = None
    duplicate_of: str | None = None
    duplicate_origin: str | None = None
    duplicate_source: str | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of a document are: [begin, end) of its source's stream, the separator included."""

    shard: str
    first_token: int  # within the shard
    tokens: int
    begin: int
    end: int


@dataclass(frozen=True)
class Trained:
    """When a document was trained on: sample by sample, in the order of training."""

    first_window: int
    windows: int
    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)  # from 1, of each of the steps
    first_checkpoint: str | None = None
    first_checkpoint_step: int | None = None


@dataclass(frozen=True)
class Way:
    """A document's way. What a build can't tell is None, and `unknown` says why."""

    id: str
    source: str
    origin: str
    file: str | None = None
    sha256: str | None = None
    etag: str | None = None  # of a file that was taken by reference, as are those that follow
    version_id: str | None = None
    url: str | None = None
    member: str | None = None
    record: int | None = None
    license: str | None = None
    date: str | None = None
    language: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    snippet: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    rules: list[Question] = field(default_factory=list)
    ended: End | None = None
    split: str | None = None
    cuts: list[int] = field(default_factory=list)  # of the text: begins and ends in turn, in characters
    tokens: Tokens | None = None
    trained: Trained | None = None
    unknown: list[str] = field(default_factory=list)


def way_of(root: Path, build: Build, folder: Path, place: Place, plan: Plan | Refusal) -> Way:
    """The way of the document at `place` of `build`, whose files are laid out in `folder`.

    `plan` is what the build trained on, or why that isn't known.
    """
    row = row_of(folder, EXTRACT, "documents", place) or {}
    signals = row_of(folder, EXTRACT, "signals", place) or {}
    unknown: list[str] = []
    asked = questions(build, place.source, {**signals, **row}, unknown)
    ended, split, cuts = fate(folder, place, unknown)
    tokens = tokens_of(folder, place) if split == "train" else None
    if split == "train" and tokens is None:
        unknown.append(f"{build.title} has no {TOKENIZE}/{place.source}: its tokens and steps are unknown")
    trained = None
    if tokens is not None and isinstance(plan, Refusal):
        unknown.append(str(plan))
    elif tokens is not None and isinstance(plan, Plan):
        trained = trained_of(plan, place.source, tokens)
    return Way(
        place.id, place.source, place.origin,
        **file_of(root, build, folder, place, unknown),
        **{name: row.get(name) for name in ("license", "date", "language")},
        meta=json.loads(row.get("meta") or "{}"),
        snippet=(row.get("text") or "")[:SNIPPET_CHARACTERS],
        sizes={name: signals[name] for name in SIZES if name in signals},
        changes={name: count for name, count in signals.items() if CHANGES.fullmatch(name) and count},
        rules=asked, ended=ended, split=split, cuts=cuts, tokens=tokens, trained=trained, unknown=unknown,
    )  # fmt: skip


def file_of(root: Path, build: Build, folder: Path, place: Place, unknown: list[str]) -> dict[str, Any]:
    """The file of download that the document was read from, its digest, the member of the archive, the record.

    Of a file by reference what the lock had of it: a digest, or the server's names for its content.
    """
    path = f"data/download/{place.source}"
    files: dict[str, dict[str, Any]] = {}
    if out := build.outs.get(path):
        try:
            if not (folder / path).exists():
                lay_out(root, build, out, folder / path)
            manifest = read_manifest(folder / path)
            files = {entry["path"]: entry for entry in [*manifest["shards"], *manifest.get("references", ())]}
        except Missing as missing:
            unknown.append(str(missing))
    else:
        unknown.append(f"{build.title} has no {path}: the digest of the file is unknown")
    return file_and_member(place.origin, files)


def file_and_member(origin: str, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`origin` (file!member#record) in its parts, with what stands for the content of the file if `files` has it."""
    stem, mark, number = origin.rpartition("#")
    stem, record = (stem, int(number)) if mark and number.isdecimal() else (origin, None)
    whole = max((name for name in files if stem == name or stem.startswith(f"{name}!")), key=len, default=None)
    file = whole if whole is not None else stem.partition("!")[0]
    known = {name: files.get(file, {}).get(name) for name in ("sha256", "etag", "version_id", "url")}
    return {"file": file, **known, "member": stem[len(file) + 1 :] or None, "record": record}


def questions(build: Build, source: str, measured: dict[str, Any], unknown: list[str]) -> list[Question]:
    """Every rule that filter asked in `build`, in its order, with what was `measured` of the document."""
    name = f"filter@{source}"
    stage = build.stages.get(name)
    if stage is None:
        unknown.append(f"{LOCK} of {build.title} has no {name}: its rules are unknown")
        return []
    section = f"sources.{source}.filter"
    try:
        asked = rules(parse_params(FilterParams, stage.params.get(section), f"{LOCK} of {build.title}: {section}"))
    except Refusal as refusal:
        unknown.append(f"its rules are not those of this version: {refusal}")
        return []
    return [question(rule, measured) for rule in asked]


def question(rule: Rule, measured: dict[str, Any]) -> Question:
    """What `rule` says of a document with these columns. One that the build hasn't is as not measured."""
    frame = pl.DataFrame({name: [measured.get(name)] for name in rule.columns})
    broken, value = frame.select(rule.broken.alias("broken"), rule.value.alias("value")).row(0)
    if rule.one_of is not None:
        return Question(rule.name, measured.get(rule.signal), "one of", list(rule.one_of), not broken)
    relation = "at least" if rule.at_least is not None else "at most"
    return Question(rule.name, value, relation, rule.threshold, not broken)


def fate(folder: Path, place: Place, unknown: list[str]) -> tuple[End | None, str | None, list[int]]:
    """The decision that ended the document's way, or the split that it is in; and what is cut from its text."""
    decision = None
    for stage in (DEDUP, FILTER):
        decision = row_of(folder, stage, "decisions", place)
        if decision is not None:
            break
        unknown.append(f"the build has no {stage}/{place.source}: what it would have decided is unknown")
    if decision is None:
        return None, None, []
    cuts = decision.get("cuts") or []
    if decision["keep"]:
        return None, decision.get("split"), cuts
    other = decision.get("duplicate_of")
    kept = by_ids(folder, [other]).get(other) if other else None
    ended = End(
        DEDUP if other or cuts else FILTER,
        decision["rule"],
        decision.get("value"),
        decision.get("threshold"),
        duplicate_of=other,
        duplicate_origin=kept.origin if kept else None,
        duplicate_source=kept.source if kept else None,
        similarity=decision.get("similarity"),
    )
    return ended, None, cuts


def tokens_of(folder: Path, place: Place) -> Tokens | None:
    """Where the tokens of a training document are; None if the build has no token shards of its source.

    Raises:
        Refusal: if its shard hasn't the document.
    """
    if not (folder / TOKENIZE / place.source).is_dir():
        return None
    path = shard_paths(folder / TOKENIZE / place.source, "documents")[place.shard]
    found = read_shard(path).filter(pl.col("id") == place.id).to_dicts()
    if not found:
        raise Refusal(
            f"{TOKENIZE}/{place.source}/{path.name} has no tokens of {place.id}, which {DEDUP} keeps: "
            f"the stages are out of step; run `dvc repro`"
        )
    shard = stream_of(folder, place.source)[place.shard]
    first, count = found[0]["first_token"], found[0]["tokens"]
    name = f"{TOKENIZE}/{place.source}/tokens-{place.shard:05d}.bin"
    return Tokens(name, first, count, shard.begin + first, shard.begin + first + count)


def trained_of(plan: Plan, source: str, tokens: Tokens) -> Trained:
    """When the tokens were trained on."""
    windows = plan.windows_of(source, tokens.begin, tokens.end)
    samples = seen(plan.order, source, windows, plan.samples)
    steps = [plan.step_of(number) for number in samples.numbers.tolist()]
    first = plan.after(steps[0]) if steps else None
    return Trained(
        windows.start,
        len(windows),
        steps,
        [epoch + 1 for epoch in samples.epochs.tolist()],
        plan.name(first) if first is not None else None,
        first,
    )
