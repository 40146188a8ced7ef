"""What differs between two builds, for people and for programs."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lineage.diff.causes import ABSENT, Again, Cause, roots
from lineage.diff.compare import Difference, Given, difference, two_builds
from lineage.diff.documents import Moved
from lineage.diff.results import Score
from lineage.history import Build
from lineage.plain import plain
from lineage.terminal import UNKNOWN, console, marked, tables

WAYS = 12  # rows of documents that went, for people; --json has all
TOKENS = 12
LONG = 60


def print_difference(first: str | None, second: str | None, as_json: bool = False, root: Path = Path()) -> None:
    """Write what differs between two builds to stdout.

    Raises:
        Refusal: if one isn't there.
    """
    found = difference(root, *two_builds(root, first, second))
    if as_json:
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False))
    else:
        show(found, console())


def show(found: Difference, console: Console) -> None:
    """Write `found` to `console`, for people."""
    console.print(f"From {found.first.dated} to {found.second.dated}\n", style="bold")
    if not (found.again or found.params):
        console.print("The two are the same build: every stage read, was told and wrote the same.")
    for table in _tables(found):
        console.print(table)
    for name, text in _lines(found):
        console.print(f"{name}: {plain(text)}", soft_wrap=True)
    for sentence in found.unknown:
        console.print(f"Can't be compared: {plain(sentence)}", soft_wrap=True)


def _tables(found: Difference) -> Iterator[Table]:
    """A table for each kind of thing that differs."""
    params = ((name, *map(_value, pair)) for name, pair in found.params.items())
    yield from tables("Parameters", ("parameter", "old", "new"), params)
    sources = ((each.name, f"{each.change}{f' from {each.was}' if each.was else ''}") for each in found.sources)
    yield from tables("Sources", ("source", "change"), sources)
    counts = (
        (source, what, *map(_count, pair), _gain(*pair))
        for source, changed in found.documents.items()
        for what, pair in changed.items()
    )
    yield from tables("Documents and tokens", ("source", "what", "old", "new", "change"), counts, numbers=3)
    ways = ("source", "from", "to", "documents", "tokens", "such as")
    yield from tables("Documents that went another way", ways, map(_way, _most(found)))
    mixture = ((name, *map(_given, pair)) for name, pair in found.mixture.items())
    yield from tables("Mixture", ("source", "old", "new"), mixture, numbers=2)
    metrics = ("metric", "old", "95% interval", "new", "95% interval", "intervals")
    yield from tables("Metrics", metrics, (_score(score) for score in found.scores if score.old != score.new))
    yield from tables("Why each stage ran again", ("stage", "because", "its outs"), _reasons(found.again))


def _lines(found: Difference) -> Iterator[tuple[str, str]]:
    if found.code:
        counted = [f"{file.path} (+{_lines_of(file.added)} -{_lines_of(file.removed)})" for file in found.files]
        yield "Code and files that stages read", ", ".join(counted or found.code)
    if found.vocabulary:
        gone, came = (
            ", ".join(map(repr, tokens[:TOKENS])) for tokens in (found.vocabulary.gone, found.vocabulary.came)
        )
        yield (
            "Tokenizer",
            f"{found.vocabulary.old:,} tokens, then {found.vocabulary.new:,}; {len(found.vocabulary.gone):,} are gone"
            f"{f' ({gone} …)' if gone else ''}, {len(found.vocabulary.came):,} came{f' ({came} …)' if came else ''}",
        )
    again = {each.stage: each for each in found.again}
    if again:
        causes = {(cause.kind, cause.what): cause for name in again for cause in roots(name, again)}
        yield "In the end because of", ", ".join(map(_cause, causes.values())) or "nothing that is known"


def _value(value: Any) -> str:
    text = value if value == ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _gain(old: int | None, new: int | None) -> str:
    return f"{(new or 0) - (old or 0):+,}"


def _given(share: Given | None) -> str:
    if share is None:
        return UNKNOWN
    return share if isinstance(share, str) else f"{share:.2%}"


def _most(found: Difference) -> list[Moved]:
    return sorted(found.moved, key=lambda each: -each.documents)[:WAYS]


def _way(each: Moved) -> tuple[str, ...]:
    samples = "; ".join(
        f"{sample.id[:8]} {marked(sample.origin, sample.synthetic)}{f' ({sample.why})' if sample.why else ''}"
        for sample in each.samples
    )
    tokens = f"{each.new_tokens - each.old_tokens:+,}"
    return each.source, each.old, each.new, f"{each.documents:,}", tokens, samples


def _score(score: Score) -> tuple[str, ...]:
    told = {None: UNKNOWN, True: "overlap", False: "apart"}[score.overlap]
    return (
        score.name, _number(score.old), _interval(score.old_interval), _number(score.new),
        _interval(score.new_interval), told,
    )  # fmt: skip


def _number(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return UNKNOWN if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _reasons(again: Iterable[Again]) -> Iterator[tuple[str, str, str]]:
    """A row for each stage; stages of one kind that ran for the same reason share one."""
    rows = groupby(again, key=lambda each: (each.stage.partition("@")[0], _because(each), _ended(each)))
    for (_, because, ended), stages in rows:
        yield ", ".join(each.stage for each in stages), because, ended


def _because(again: Again) -> str:
    if again.is_unexplained:
        return "nothing that DVC knows: it read and was told the same"
    own = [_cause(cause) for cause in again.causes if not cause.because]
    others = dict.fromkeys(name for cause in again.causes for name in cause.because)
    return "; ".join([", ".join(own)] * bool(own) + [f"because {', '.join(others)} changed"] * bool(others))


def _cause(cause: Cause) -> str:
    match cause.kind:
        case "parameter":
            return f"{cause.what} {_value(cause.old)} -> {_value(cause.new)}"
        case "command":
            return f"command {cause.old} -> {cause.new}"
        case "stage":
            return f"{cause.what} is {cause.new}"
        case _ if cause.old == ABSENT:
            return f"{cause.what} (new)"
        case _ if cause.new == ABSENT:
            return f"{cause.what} (gone)"
        case _:
            return cause.what


def _ended(again: Again) -> str:
    if again.causes and again.causes[0].kind == "stage":
        return str(again.causes[0].new)
    if not again.changed:
        return "the same"
    return f"others: {', '.join(again.changed)}" if again.same else "others"


def _lines_of(count: int | None) -> str:
    return UNKNOWN if count is None else str(count)


def to_json(found: Difference) -> dict[str, Any]:
    """What differs, as plain values."""
    again = {each.stage: each for each in found.again}
    return {
        "first": _build(found.first),
        "second": _build(found.second),
        "params": {name: {"old": old, "new": new} for name, (old, new) in found.params.items()},
        "code": found.code,
        "files": [asdict(each) for each in found.files],
        "sources": [asdict(each) for each in found.sources],
        "documents": {
            source: {what: {"old": old, "new": new} for what, (old, new) in changed.items()}
            for source, changed in found.documents.items()
        },
        "moved": [asdict(each) for each in found.moved],
        "mixture": {name: {"old": old, "new": new} for name, (old, new) in found.mixture.items()},
        "tokenizer": asdict(found.vocabulary) if found.vocabulary else None,
        "metrics": [{**asdict(each), "overlap": each.overlap} for each in found.scores],
        "stages": [
            {**asdict(each), "roots": [asdict(cause) for cause in roots(each.stage, again)]} for each in found.again
        ],
        "unknown": found.unknown,
    }  # fmt: skip


def _build(build: Build) -> dict[str, Any]:
    return {"title": build.title, "commit": build.commit, "date": build.date}
