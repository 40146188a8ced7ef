"""What a report draws beside lineage.pictures: the DAG with digests, funnels, histograms, checkpoints, intervals."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lineage.attestation import Record
from lineage.history import Build, Stage
from lineage.pictures import MODEL, PALE, Box, draw_dag
from lineage.report.census import FATES, Census, Spread
from lineage.report.documents import DROPPED, HELD_OUT, TRAIN, UNDECIDED, UNEXTRACTED
from lineage.report.runs import duration, spoken
from lineage.report.versions import Row
from lineage.svg import GRID, INK, MUTED, Axis, card, label, line, marker, shape, short_number, ticks

LIMIT = "#b45309"
SHADES = {UNEXTRACTED: "#c3cad3", DROPPED: "#8a94a0", UNDECIDED: "#b45309", HELD_OUT: PALE, TRAIN: MODEL}
MOST_DIGESTS = 8
BARS = 32


def draw_stages(build: Build, boxes: Sequence[Box], sources: Sequence[str], records: Mapping[str, Record]) -> str:
    """The DAG of `build`: in each stage its duration and the digest of its first out, or of each source's."""
    return draw_dag(boxes, sources, {box.name: _notes(build, box, sources, records) for box in boxes})


def _notes(build: Build, box: Box, sources: Sequence[str], records: Mapping[str, Record]) -> list[str]:
    names = {box.name: "", **{f"{box.name}@{source}": source for source in sources}}
    names = {name: source for name, source in names.items() if name in build.stages}
    digests = [digest for name, source in names.items() if (digest := _digest(build.stages[name], box, source))]
    more = len(digests) - MOST_DIGESTS
    shown = [*digests[: MOST_DIGESTS - 1], f"and {more + 1} more"] if more > 0 else digests
    seconds = [duration(records.get(name)) for name in names]
    known = [each for each in seconds if each is not None]
    return [*shown, f"{'' if len(known) == len(names) else '≥ '}{spoken(sum(known))}"] if known else shown


def _digest(stage: Stage, box: Box, source: str) -> str:
    """DVC's digest of what the box says that the stage makes, shortened."""
    made = box.outs[0].replace("${key}", source).replace("${item}", source) if box.outs else ""
    return stage.outs[made].md5[:10] if made in stage.outs else ""


def draw_funnel(sources: Sequence[Census]) -> str:
    """A bar for each source: which part of its documents met which fate."""
    width, left, row, top = 880, 120, 30, 78
    height = top + row * len(sources) + 16
    across = Axis(0, 1, left, width - 130)
    parts = _legend([fate for fate in FATES if any(census.of(fate).documents for census in sources)], 58)
    for number, census in enumerate(sources):
        y, x = top + row * number, across.begin
        parts.append(label(left - 12, y + 15, census.source, most=14, text_anchor="end"))
        for count in census.fates:
            step = (across.end - across.begin) * count.documents / max(census.documents, 1)
            parts.append(shape("rect", x=x, y=y, width=step, height=20, fill=SHADES[count.name]))
            x += step
        kept = f"{census.of(TRAIN).documents:,} of {census.documents:,}"
        parts.append(label(across.end + 12, y + 15, kept, fill=MUTED))
    return card(width, height, "The documents of each source, by what became of them", parts)


def _legend(names: Sequence[str], y: float) -> list[str]:
    parts, x = [], 20.0
    for name in names:
        parts.append(shape("rect", x=x, y=y - 10, width=12, height=12, fill=SHADES[name]))
        parts.append(label(x + 18, y + 1, name, fill=MUTED))
        x += 40 + 7 * len(name)
    return parts


def draw_spread(source: str, spread: Spread) -> str:
    """A histogram: how many documents have which value of a signal, and where the rule cuts them off."""
    width, height, left, top = 420, 210, 44, 66
    is_log = spread.signal == "words"
    edges = bar_edges([*spread.kept, *spread.dropped], spread.threshold, is_log)
    kept, dropped = (heights(values, edges) for values in (spread.kept, spread.dropped))
    most = max(map(sum, zip(kept, dropped, strict=True)), default=1) or 1
    across, up = Axis(0, len(edges) - 1, left, width - 20), Axis(0, most, height - 46, top)
    parts = [line([(left, up.at(tick)), (across.end, up.at(tick))], GRID) for tick in (most / 2, most)]
    parts += [
        label(
            left - 6,
            up.at(most) + 4,
            f"{most:,}" if most < 10_000 else short_number(most),
            11,
            fill=MUTED,
            text_anchor="end",
        )
    ]
    for place, (lower, upper) in enumerate(zip(kept, dropped, strict=True)):
        bar = {"x": across.at(place) + 0.5, "width": (across.end - across.begin) / (len(edges) - 1) - 1}
        for base, count, colour in ((0, lower, MODEL), (lower, upper, SHADES[DROPPED])):
            if count:
                size = up.at(base) - up.at(base + count)
                parts.append(shape("rect", **bar, y=up.at(base + count), height=size, fill=colour))
    parts.append(line([(left, up.begin), (across.end, up.begin)], MUTED))
    for place in (0, (len(edges) - 1) // 2, len(edges) - 1):
        anchor = "start" if place == 0 else "end" if place == len(edges) - 1 else "middle"
        shown = short_number(float(f"{edges[place]:.3g}"))
        parts.append(label(across.at(place), height - 28, shown, 11, fill=MUTED, text_anchor=anchor))
    parts.append(
        label((left + across.end) / 2, height - 10, _axis(spread, is_log), 11, fill=MUTED, text_anchor="middle")
    )
    parts += _threshold(spread, edges, across, (top, up.begin))
    return card(width, height, f"{source}: {spread.signal.replace('_', ' ')}", parts)


def _axis(spread: Spread, is_log: bool) -> str:
    unit = f"{spread.signal.replace('_', ' ')}{' (logarithmic)' if is_log else ''}"
    return f"{unit}; blue: kept, grey: dropped"


def _threshold(spread: Spread, edges: Sequence[float], across: Axis, edge: tuple[float, float]) -> list[str]:
    if spread.threshold is None:
        return []
    x = across.at(place_of(spread.threshold, edges))
    said = f"at {'least' if spread.is_least else 'most'} {spread.threshold:g}"
    is_left = x < (across.begin + across.end) / 2
    return [
        line([(x, edge[0] - 8), (x, edge[1])], LIMIT, 1.6, stroke_dasharray="4 3"),
        label(
            x + (5 if is_left else -5), edge[0] - 10, said, 11, fill=LIMIT, text_anchor="start" if is_left else "end"
        ),
    ]


def bar_edges(values: Sequence[float], threshold: float | None, is_log: bool) -> list[float]:
    """The edges of BARS bars, rising: from the least value to the 99th percentile, and around the threshold."""
    ordered = sorted(value for value in values if math.isfinite(value)) or [0.0]
    low, high = ordered[0], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold * 1.25)
    if is_log:
        low, high = max(low, 1.0), max(high, low * 10, 10.0)
        return [low * (high / low) ** (place / BARS) for place in range(BARS + 1)]
    high = high if high > low else low + 1
    return [low + (high - low) * place / BARS for place in range(BARS + 1)]


def heights(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many of `values` fall between each pair of `edges`; what lies outside counts in the bar at the end."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        if not math.isnan(value):
            counts[min(int(place_of(value, edges)), len(counts) - 1)] += 1
    return counts


def place_of(value: float, edges: Sequence[float]) -> float:
    """Where `value` lies, in bars from the left, within [0, number of bars]."""
    if value <= edges[0]:
        return 0.0
    for place, (low, high) in enumerate(pairwise(edges)):
        if value < high:
            return place + (value - low) / (high - low)
    return float(len(edges) - 1)


def draw_checkpoints(scores: Sequence[tuple[float, float]]) -> str:
    """The bits per byte of each checkpoint: (step, bits per byte)."""
    width, height, left, top = 880, 260, 64, 56
    rows = ticks(min(value for _, value in scores), max(value for _, value in scores))
    across = Axis(0, max(max(step for step, _ in scores), 1), left, width - 40)
    up = Axis(rows[0], rows[-1], height - 62, top)
    parts = [line([(left, up.at(row)), (across.end, up.at(row))], GRID) for row in rows]
    parts += [label(left - 10, up.at(row) + 4, f"{row:.4g}", fill=MUTED, text_anchor="end") for row in rows]
    parts += [
        label(across.at(tick), up.begin + 20, short_number(tick), fill=MUTED, text_anchor="middle")
        for tick in ticks(0, across.high)
        if tick <= across.high
    ]
    points = [(across.at(step), up.at(value)) for step, value in scores]
    parts += [line([(left, up.begin), (across.end, up.begin)], MUTED), line(points, MODEL, 2.2)]
    for (x, y), (_, value) in zip(points, scores, strict=True):
        parts += [marker("circle", x, y, MODEL), label(x, y - 11, f"{value:.3f}", 12, text_anchor="middle")]
    parts.append(label((left + across.end) / 2, height - 14, "step", fill=MUTED, text_anchor="middle"))
    return card(width, height, "Bits per byte of each checkpoint, on a part of that text", parts)


def draw_interval(row: Row, table: Sequence[Row]) -> str:
    """The bits per byte of a build with its interval, on an axis that all rows of `table` share; nothing if unknown."""
    if row.bits_per_byte is None:
        return ""
    known = [each for every in table for each in (every.bits_per_byte, every.low, every.high) if each is not None]
    low, high = min(known), max(known)
    margin = (high - low) * 0.08 or 0.5
    across = Axis(low - margin, high + margin, 4, 156)
    parts = [line([(4, 12), (156, 12)], GRID, 2)]
    if row.low is not None and row.high is not None:
        parts.append(line([(across.at(row.low), 12), (across.at(row.high), 12)], MODEL, 3))
    parts.append(shape("circle", cx=across.at(row.bits_per_byte), cy=12, r=4.5, fill=MODEL if row.is_shown else INK))
    return _small(parts)


def draw_bar(part: float, whole: float) -> str:
    """The share of `part` in `whole` as a bar; its numbers stand beside it."""
    full = shape("rect", x=4, y=7, width=152, height=10, fill=GRID)
    return _small([full, shape("rect", x=4, y=7, width=152 * part / max(whole, 1), height=10, fill=SHADES[DROPPED])])


def _small(parts: Sequence[str]) -> str:
    """A picture for a cell of a table, which screen readers pass over."""
    size: dict[str, str | float] = {"viewBox": "0 0 160 24", "width": 160, "height": 24}
    return shape("svg", "".join(parts), **size, aria_hidden="true", focusable="false")
