"""`pedigree rules`: a source's rules with what they drop, one of them with its histogram, or a change of them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lineage.plain import plain
from lineage.rules.bins import cut_of
from lineage.rules.change import Change, change_of, section_of
from lineage.rules.tally import Census, Shard, Tally, Volume, shards_of, take, with_texts
from lineage.terminal import UNKNOWN, console, marked, tables
from stages.filter import FilterParams, rules
from stages.filter.decontamination import RULE as DECONTAMINATION
from stages.params import PARAMS_FILE, Refusal, parse_params
from stages.takedown import RULE as TAKEDOWN
from stages.takedown import read_takedown

LEVELS = " ▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉█"
BAR = 48  # characters of the longest bar
MOST_SAID = 20  # languages or licences
CUT, DROPPED = "┃", "red"

Bar = tuple[str, int, bool]  # what is in it, how many documents, whether they are dropped


def print_rules(
    source: str, name: str | None, settings: Sequence[str], as_json: bool = False, root: Path = Path()
) -> None:
    """Write to stdout what the rules of `source` drop, or only the one called `name`; or what `settings` would change.

    Raises:
        Refusal: if there is no such source, rule or setting, or the source isn't extracted.
    """
    takedown = read_takedown(root / "takedown.jsonl")
    if settings:
        change = change_of(root, source, settings, takedown)
        print_json(change_as_json(change)) if as_json else show_change(change, settings, console())
        return
    params = parse_params(FilterParams, section_of(root, source), f"{PARAMS_FILE}: sources.{source}.filter")
    asked = rules(params, f"sources.{source}.filter")
    census = take(root, source, asked, takedown)
    shards = shards_of(root, source)
    chosen = [one_of(census, name)] if name else census.tallies
    if as_json:
        print_json(census_as_json(census, chosen, shards))
    elif name:
        show_rule(census, chosen[0], shards, console())
    else:
        show_all(census, params.decontamination is not None, console())


def print_json(value: dict[str, Any]) -> None:
    """Write `value` to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def one_of(census: Census, name: str) -> Tally:
    """The tally of the rule called `name`.

    Raises:
        Refusal: if no rule of the source is.
    """
    found = next((tally for tally in census.tallies if tally.rule.name == name), None)
    if found is None:
        known = ", ".join(tally.rule.name for tally in census.tallies) or "none"
        raise Refusal(f"sources.{census.source}.filter asks no rule {name}; name one of these: {known}")
    return found


def show_all(census: Census, decontaminates: bool, out: Console) -> None:
    """Write a line for each rule, and what they drop together."""
    table = Table(title=title(census), title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("rule", no_wrap=True)
    for column in ("must be", "by what is measured"):
        table.add_column(column, overflow="fold")
    for column in ("break it", "share", unit_of(census), "no other"):
        table.add_column(column, justify="right")
    group = ""
    for tally in census.tallies:
        set_name, _, key = tally.rule.name.partition(".")
        if set_name != group:
            table.add_row(Text(set_name, "bold"))
            group = set_name
        table.add_row(
            f"  {key}", briefly(tally), small(tally), f"{tally.broken.documents:,}",
            share(tally.broken, census.read), amount(tally.broken, census), f"{tally.alone.documents:,}",
        )  # fmt: skip
    out.print(table)
    out.print(f"{CUT} stands where the threshold is; no other: documents that break no other rule")
    out.print(summary(census))
    if decontaminates:
        out.print(f"{DECONTAMINATION} reads texts, of what these rules keep, and isn't asked here: see data/filter")
    out.print(
        f"one rule, with samples: pedigree rules {census.source} --rule NAME; another threshold: --set NAME=VALUE"
    )


def show_rule(census: Census, tally: Tally, shards: Sequence[Shard], out: Console) -> None:
    """Write one rule with its histogram, and documents on either side of its threshold."""
    out.print(f"{tally.rule.name} of {census.source}: {bound(tally)}", style="bold")
    for line in histogram(tally):
        out.print(line, soft_wrap=True)
    out.print(
        f"documents that break it: {tally.broken.documents:,} ({share(tally.broken, census.read)}), "
        f"{amount(tally.broken, census)} {unit_of(census)}; "
        f"that break no other rule: {tally.alone.documents:,}, {amount(tally.alone, census)} {unit_of(census)}"
    )
    out.print(summary(census))
    sides = (("dropped by it", tally.dropped), ("not dropped by it", tally.kept))
    for heading, samples in sides:
        rows = [
            (
                str(row["id"]),
                shown(row["value"]),
                marked(one_line(row["origin"]), bool(row["synthetic"])),
                one_line(row["text"]),
            )
            for row in with_texts(shards, samples)
        ]
        near = f"Nearest to the threshold, {heading}" if tally.rule.threshold is not None else heading.capitalize()
        for table in tables(f"\n{near}", ("id", "value", "origin", "text"), rows):
            out.print(table)


def show_change(change: Change, settings: Sequence[str], out: Console) -> None:
    """Write what is kept more and fewer, by rule; nothing has been changed."""
    out.print(f"{change.source} with {', '.join(map(plain, settings))}; nothing is written", style="bold")
    unit = unit_of(change)
    columns = ("rule", "documents", unit)
    for heading, by_rule in (
        ("Kept, and dropped before by", change.more),
        ("Dropped, and kept before, by", change.fewer),
    ):
        most_first = sorted(by_rule.items(), key=lambda item: (-item[1].documents, item[0]))
        rows = [(rule, f"{moved.documents:,}", amount(moved, change)) for rule, moved in most_first]
        for table in tables(heading, columns, rows, numbers=2):
            out.print(table)
    difference = change.after - change.before
    out.print(
        f"kept: {change.before.documents:,} documents before, {change.after.documents:,} after "
        f"({difference.documents:+,}); {amount(change.before, change)} {unit} before, "
        f"{amount(change.after, change)} after ({amount(difference, change, sign=True)})"
    )


def title(census: Census) -> str:
    """What is asked of what."""
    return f"Rules of {census.source}, each asked of all {census.read.documents:,} documents"


def summary(census: Census) -> str:
    """What the rules keep together."""
    per_token = None if census.tokens_per_byte is None else 1 / census.tokens_per_byte
    estimate = "" if per_token is None else f" (estimated, at {per_token:.2f} bytes each)"
    gone = f"; {census.taken_down.documents:,} taken down before ({TAKEDOWN})" if census.taken_down.documents else ""
    return (
        f"all rules together keep {census.kept.documents:,} of {census.read.documents:,} documents, "
        f"{amount(census.kept, census)} of {amount(census.read, census)} {unit_of(census)}{estimate}{gone}"
    )


def bound(tally: Tally) -> str:
    """What a document must be."""
    rule = tally.rule
    if rule.one_of is not None:
        return "one of " + ", ".join(map(plain, rule.one_of))
    if rule.listed is not None:
        return f"none of {len(rule.listed.entries):,} {rule.listed.kind}"
    only = f", if {' or '.join(map(plain, rule.languages))}" if rule.languages is not None else ""
    return f"{'at least' if rule.at_least is not None else 'at most'} {shown(rule.threshold)}{only}"


def briefly(tally: Tally) -> str:
    """The same in a few characters."""
    rule = tally.rule
    if rule.one_of is not None:
        return ", ".join(map(plain, rule.one_of))
    if rule.listed is not None:
        return f"none of {len(rule.listed.entries):,}"
    return f"{'≥' if rule.at_least is not None else '≤'} {shown(rule.threshold)}"


def small(tally: Tally) -> Text:
    """The histogram in one line, the dropped part in colour, the threshold between two of its bars."""
    if tally.rule.one_of is not None:
        first = [f"{plain(said or UNKNOWN)} {number:,}" for said, number in tally.said.most_common(3)]
        return Text(", ".join(first))
    most, place = max(int(tally.bars.max()), 1), cut_place(tally)
    text = Text()
    for number, bar in enumerate(tally.bars.tolist()):
        text.append(CUT if number == place else "")
        level = -(-bar * (len(LEVELS) - 1) // most)  # a bar of one document is seen, too
        text.append(LEVELS[level], style=DROPPED if is_dropped(tally, number) else "")
    return text


def histogram(tally: Tally) -> Iterator[Text]:
    """The histogram, a line for each bar; without empty ones beyond all documents and the threshold."""
    rows, place = bars_said(tally) if tally.rule.one_of is not None else bars_measured(tally)
    most, width = max((bar for _, bar, _ in rows), default=1) or 1, max((len(name) for name, _, _ in rows), default=0)
    for number, (name, bar, dropped) in enumerate(rows):
        if number == place:
            yield Text(f"{'':{width}} {CUT}━━ {bound(tally)}")
        line = Text(f"{name:>{width}} ").append(f"{bar_of(bar, most):{BAR}}", DROPPED if dropped else "")
        yield line.append(f" {bar:,}")
    if len(tally.said) > MOST_SAID:
        yield Text(f"and {len(tally.said) - MOST_SAID} more")
    if tally.unmeasured:
        yield Text(f"not measured, so not dropped: {tally.unmeasured:,}")


def bars_said(tally: Tally) -> tuple[list[Bar], None]:
    """Languages or licences, the most frequent first; there is no threshold between them."""
    allowed = tally.rule.one_of or ()
    return [(plain(said or UNKNOWN), bar, said not in allowed) for said, bar in tally.said.most_common(MOST_SAID)], None


def bars_measured(tally: Tally) -> tuple[list[Bar], int]:
    """Ranges of values, ascending, and before which of them the threshold is."""
    place = cut_place(tally)
    used = [*np.flatnonzero(tally.bars).tolist(), place - 1, place]
    first, last = min(used), max(used)
    rows = [(label(tally, bar), int(tally.bars[bar]), is_dropped(tally, bar)) for bar in range(first, last + 1)]
    return rows, place - first


def bar_of(count: int, most: int) -> str:
    """A bar as long as `count` is of `most`, in eighths of a character; never nothing for something."""
    eighths = -(-count * BAR * 8 // most)
    return EIGHTHS[-1] * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def cut_place(tally: Tally) -> int:
    """Before which bar the threshold is."""
    return int(np.searchsorted(tally.edges, cut_of(tally.rule) or 0.0)) + 1


def is_dropped(tally: Tally, bar: int) -> bool:
    """Whether what is in a bar breaks the rule."""
    below = bar < cut_place(tally)
    return below if tally.rule.at_least is not None else not below


def label(tally: Tally, bar: int) -> str:
    """What the values in a bar are: from its edge on, up to the next one."""
    edges = [shown(edge) for edge in tally.edges.tolist()]
    if bar == 0:
        return f"below {edges[0]}"
    begin = edges[bar - 1]
    if tally.rule.at_most is not None and bar == cut_place(tally):
        begin = f"above {begin}"  # what is equal to the threshold is kept
    return f"{begin} to {edges[bar]}" if bar < len(edges) else f"{begin} and more"


def unit_of(of: Census | Change) -> str:
    """In what the text is counted."""
    return "bytes" if of.tokens_per_byte is None else "tokens"


def amount(volume: Volume, of: Census | Change, sign: bool = False) -> str:
    """How much text it is: tokens by the bytes of a token in this source, if it is tokenized."""
    size = volume.bytes if of.tokens_per_byte is None else round(volume.bytes * of.tokens_per_byte)
    return f"{size:+,}" if sign else f"{size:,}"


def share(part: Volume, whole: Volume) -> str:
    """Of the documents."""
    return f"{part.documents / max(whole.documents, 1):.1%}"


def shown(value: Any) -> str:
    """A number, short; or a language, a licence."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return plain(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def one_line(text: Any) -> str:
    """`text` with blanks for its newlines, harmless."""
    return " ".join(plain(str(text)).split())


def census_as_json(census: Census, chosen: Sequence[Tally], shards: Sequence[Shard]) -> dict[str, Any]:
    """The census of the `chosen` rules, for programs."""
    return {
        "source": census.source,
        "read": sizes(census.read, census),
        "kept": sizes(census.kept, census),
        "taken_down": sizes(census.taken_down, census),
        "rules": [tally_as_json(tally, census, shards) for tally in chosen],
    }


def tally_as_json(tally: Tally, census: Census, shards: Sequence[Shard]) -> dict[str, Any]:
    """One rule, for programs: bar i has the values from edge i - 1 on, below edge i."""
    return {
        "rule": tally.rule.name,
        "must_be": bound(tally),
        "threshold": tally.rule.threshold,
        "edges": tally.edges.tolist(),
        "bars": tally.bars.tolist() if tally.rule.one_of is None else [],
        "said": {said or UNKNOWN: number for said, number in tally.said.most_common()},
        "unmeasured": tally.unmeasured,
        "break": sizes(tally.broken, census),
        "break_no_other": sizes(tally.alone, census),
        "samples": {
            "dropped": with_texts(shards, tally.dropped), "not_dropped": with_texts(shards, tally.kept),
        },
    }  # fmt: skip


def change_as_json(change: Change) -> dict[str, Any]:
    """What would change, for programs."""
    return {
        "source": change.source,
        "before": sizes(change.before, change),
        "after": sizes(change.after, change),
        "kept_more": {rule: sizes(moved, change) for rule, moved in sorted(change.more.items())},
        "kept_fewer": {rule: sizes(moved, change) for rule, moved in sorted(change.fewer.items())},
    }


def sizes(volume: Volume, of: Census | Change) -> dict[str, Any]:
    """Documents, bytes, and tokens by estimate; null if the source isn't tokenized."""
    tokens = None if of.tokens_per_byte is None else round(volume.bytes * of.tokens_per_byte)
    return {"documents": volume.documents, "bytes": volume.bytes, "tokens": tokens}
