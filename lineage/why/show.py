"""`pedigree why`: the answer of a build, for people or as JSON."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lineage.history import build_at
from lineage.plain import plain
from lineage.terminal import UNKNOWN, console
from lineage.why.answer import Answer, answer_of
from lineage.why.query import Unreadable
from lineage.why.way import End, Question, Way
from stages.params import Refusal

SHOWN_WAYS = 3
SHOWN_STEPS = 12


def print_why(query: str | None, text: str | None, at: str | None, as_json: bool = False, root: Path = Path()) -> None:
    """Write to stdout what the build at revision `at` knows of `query`, or of the document with this `text`.

    Raises:
        Refusal: if nothing is found, or the files of that build are gone.
    """
    answer = answer_of(root, build_at(root, at), query, text)
    if as_json:
        print(json.dumps(asdict(answer), indent=2, ensure_ascii=False))
    else:
        show(answer, console())


def read_text(query: str | None, file: Path | None) -> str | None:
    """The text that is asked for: of `file`, or of stdin if `query` is -; None if it is another query.

    Raises:
        Refusal: if there is no query, or two, or `file` isn't text.
    """
    if (query is None) == (file is None):
        raise Refusal("name one document: by its id, origin, URL or text, or by --text FILE")
    if query == "-":
        return sys.stdin.read()
    try:
        return file.read_text(encoding="utf-8") if file else None
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"--text {file} can't be read ({error}); name a file of UTF-8 text") from None


def show(answer: Answer, out: Console) -> None:
    """Write `answer` to `out`, for people."""
    out.print(f"In the build of {plain(answer.build)}:")
    if answer.nearest:
        out.print(alike(answer))
    for way in answer.ways[:SHOWN_WAYS]:
        show_way(way, out)
    if more := answer.ways[SHOWN_WAYS:]:
        out.print(f"\n{len(more)} more, by their ids:")
        for way in more:
            line(out, way.id, f"{way.source}: {way.origin}")
    for bad in answer.unreadable:
        show_unreadable(bad, out)


def show_way(way: Way, out: Console) -> None:
    """Write one document's way."""
    out.print(f"\n{plain(way.source)}: {plain(way.origin)}", style="bold", soft_wrap=True)
    for name, value in facts(way):
        line(out, name, value)
    if way.rules:
        out.print(questions(way.rules, way.ended.rule if way.ended else None))
    for name, value in outcome(way):
        line(out, name, value)
    for sentence in way.unknown:
        line(out, "not known", sentence)


def show_unreadable(bad: Unreadable, out: Console) -> None:
    """Write what became of input that never was a document."""
    out.print(f"\n{plain(bad.source)}: {plain(bad.origin)}", style="bold", soft_wrap=True)
    line(out, "ended in", f"data/extract, by {bad.rule}: {one_line(bad.detail)}")


def facts(way: Way) -> Iterable[tuple[str, str]]:
    """What the document is."""
    yield "id", way.id
    pins = {"sha256": way.sha256, "ETag": way.etag, "version": way.version_id}
    pinned = [f"  {name} {value}" for name, value in pins.items() if value]
    yield "file", "".join([way.url or f"data/download/{way.source}/{way.file}", *pinned])
    if way.member is not None:
        yield "member", way.member
    if way.record is not None:
        yield "record", f"{way.record:,}, counted from 0"
    yield "licence", way.license or UNKNOWN
    yield "date", way.date or UNKNOWN
    yield "language", way.language or UNKNOWN
    for name, value in way.meta.items():
        yield one_line(name), one_line(str(value))
    if way.sizes:
        yield "size", ", ".join(f"{count:,} {name}" for name, count in way.sizes.items())
    for name, count in way.changes.items():
        yield name.replace("_", " "), f"{count:,}"
    if way.snippet:
        yield "text", one_line(way.snippet) + " …"


def questions(asked: list[Question], decisive: str | None) -> Table:
    """The rules of filter as a table; the broken ones are marked, and the one that decided."""
    table = Table(title="\nRules of filter, in the order in which they are asked", title_justify="left")
    for column in ("rule", "measured", "must be", ""):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for each in asked:
        broken = "" if each.holds else "broken: decides" if each.rule == decisive else "broken"
        style = None if each.holds else "bold"
        table.add_row(
            each.rule, number(each.measured), f"{each.relation} {number(each.threshold)}", broken, style=style
        )
    return table


def outcome(way: Way) -> Iterable[tuple[str, str]]:
    """What became of the document."""
    if way.cuts:
        yield "cut", cut_away(way)
    if way.ended is not None:
        yield "ended in", ending(way.ended)
        return
    if way.split is None:
        return
    yield "filter", "kept: every rule holds"
    yield "dedup", "kept: no duplicate, or the one that is kept of them"
    yield (
        "split",
        {"train": "train", "held_out": "held out: for evaluation, never trained on"}.get(way.split, way.split),
    )
    if way.tokens is not None:
        tokens = way.tokens
        yield "tokens", f"{tokens.tokens:,} with the separator, from token {tokens.first_token:,} of {tokens.shard}"
        yield "", f"tokens {tokens.begin:,} to {tokens.end - 1:,} of the stream of {way.source}"
    if way.trained is not None:
        yield from training(way)


def cut_away(way: Way) -> str:
    """Which parts of its text are cut."""
    spans = list(zip(way.cuts[::2], way.cuts[1::2], strict=True))
    shown = ", ".join(f"{begin:,} to {end - 1:,}" for begin, end in spans[:SHOWN_STEPS])
    gone = counted(sum(end - begin for begin, end in spans), "character")
    return f"{gone} that {way.source} has elsewhere, too: {shown}{', …' if len(spans) > SHOWN_STEPS else ''}"


def training(way: Way) -> Iterable[tuple[str, str]]:
    """When it was trained on."""
    trained = way.trained
    assert trained is not None
    if not trained.windows:
        yield "windows", f"none: its tokens come after the last whole window of {way.source}"
        return
    last = trained.first_window + trained.windows - 1
    yield "windows", f"{trained.windows:,}: {trained.first_window:,} to {last:,} of {way.source}, counted from 0"
    steps = sorted(set(trained.steps))
    if not steps:
        yield "trained on", "never: training ended before any of its windows was drawn"
        return
    samples = f"{counted(len(trained.steps), 'sample')} of {counted(len(set(trained.epochs)), 'epoch')}"
    yield "trained on", f"in {counted(len(steps), 'step')} ({samples}): {shortened(steps)}"
    yield "first seen", f"by checkpoint {trained.first_checkpoint}"


def ending(end: End) -> str:
    """The decision that ended it, in one sentence."""
    if end.duplicate_of is None:
        measured = "" if end.value is None else f": {number(end.value)}"
        threshold = "" if end.threshold is None else f", where the threshold is {number(end.threshold)}"
        return f"{end.stage}, by {end.rule}{measured}{threshold}"
    where = f" ({end.duplicate_source}: {end.duplicate_origin})" if end.duplicate_origin else ""
    alike = "the same text as" if end.rule.startswith("exact") else f"{number(end.similarity)} similar to"
    return f"{end.stage}, by {end.rule}: {alike} {end.duplicate_of}{where}, of whose duplicates that one is kept"


def alike(answer: Answer) -> Table:
    """The documents that are like a text."""
    table = Table(
        title=f"\nNo document has this text; most like it, of {answer.compared:,} compared of {answer.documents:,}",
        title_justify="left",
    )
    for column in ("similarity", "contained", "id", "source", "origin"):
        table.add_column(column, justify="right" if column in ("similarity", "contained") else "left", overflow="fold")
    for each in answer.nearest:
        table.add_row(
            f"{each.similarity:.2f}", f"{each.contained:.0%}", each.id, plain(each.source), plain(each.origin)
        )
    return table


def line(out: Console, name: str, value: str) -> None:
    """Write a name and its value."""
    out.print(f"  {name:<11} {plain(value)}", soft_wrap=True)


def counted(count: int, what: str) -> str:
    """1 step, 2 steps."""
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def shortened(steps: list[int]) -> str:
    """The steps, or the first and last of them."""
    if len(steps) <= SHOWN_STEPS:
        return ", ".join(f"{step:,}" for step in steps)
    return ", ".join(f"{step:,}" for step in steps[: SHOWN_STEPS - 1]) + f", … {steps[-1]:,}"


def number(value: Any) -> str:
    """A measured value or a threshold, short."""
    match value:
        case None:
            return UNKNOWN
        case list():
            return ", ".join(map(plain, value))
        case float():
            return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.4g}"
        case _:
            return plain(str(value))


def one_line(text: str) -> str:
    """`text` with blanks for its newlines."""
    return " ".join(plain(text).split())
