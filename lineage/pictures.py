"""Pictures of a build, as SVG: the DAG, the loss, bits per byte.

    dvc.yaml, params.yaml   ->  dag.svg
    plots/loss.csv          ->  loss.svg
    metrics/evaluate.json   ->  bits_per_byte.svg

Equal files make equal bytes. Each picture is a white card of its own, so it reads on a dark page, too.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lineage.summary import REFERENCES
from lineage.svg import (
    CARD,
    GRID,
    MUTED,
    Axis,
    Point,
    card,
    coordinate,
    label,
    line,
    marker,
    shape,
    short_number,
    ticks,
)
from stages.params import Refusal, source_names

MODEL, PALE = "#2563eb", "#a9c4f5"
LANES = ("#0f766e", "#b45309", "#7c3aed")
MARKERS = {
    "untrained": ("circle", "#8a94a0"),
    "order2": ("square", "#b45309"),
    "xz": ("diamond", "#0f766e"),
    "xz_primed": ("triangle", "#7c3aed"),
}
MOST_POINTS = 1500


# ---- the loss ---------------------------------------------------------------------------------------------


def draw_loss(curve: Sequence[tuple[float, float, float]]) -> str:
    """The picture of a training: tokens, loss and smoothed loss of each step."""
    width, height, left, top = 880, 380, 64, 56
    curve = curve[:: max(1, len(curve) // MOST_POINTS)]
    losses = [loss for _, *both in curve for loss in both]
    rows, columns = ticks(min(losses), max(losses)), ticks(0, curve[-1][0])
    across = Axis(0, curve[-1][0], left, width - 28)
    up = Axis(rows[0], rows[-1], height - 62, top)
    parts = [line([(left, up.at(row)), (across.end, up.at(row))], GRID) for row in rows]
    parts += [label(left - 10, up.at(row) + 4, f"{row:.4g}", fill=MUTED, text_anchor="end") for row in rows]
    for column in (each for each in columns if each <= across.high):
        x = across.at(column)
        parts.append(line([(x, up.begin), (x, up.begin + 5)], MUTED))
        parts.append(label(x, up.begin + 22, short_number(column), fill=MUTED, text_anchor="middle"))
    parts.append(line([(left, up.begin), (across.end, up.begin)], MUTED))
    parts.append(line([(across.at(step), up.at(loss)) for step, loss, _ in curve], PALE, stroke_linejoin="round"))
    parts.append(line([(across.at(step), up.at(mean)) for step, _, mean in curve], MODEL, 2.2, stroke_linejoin="round"))
    parts.append(label((left + across.end) / 2, height - 16, "tokens trained on", fill=MUTED, text_anchor="middle"))
    for number, (name, colour, stroke) in enumerate((("each step", PALE, 2.0), ("smoothed", MODEL, 2.2))):
        x = width - 240 + 116 * number
        parts += [line([(x, 26), (x + 24, 26)], colour, stroke), label(x + 31, 30, name, fill=MUTED)]
    return card(width, height, "Training loss, nats per token", parts)


# ---- bits per byte ----------------------------------------------------------------------------------------


def draw_bits_per_byte(total: Mapping[str, float], sources: Mapping[str, Mapping[str, float]]) -> str:
    """The picture of an evaluation: a bar for the model, a marker for each reference, over all and by source."""
    width, row_height, left, top = 880, 36, 150, 92
    rows = [("all sources", total), *sources.items()]
    height = top + row_height * len(rows) + 62
    columns = ticks(0, max(scores[name] for _, scores in rows for name in REFERENCES if name in scores))
    across = Axis(0, columns[-1], left, width - 40)
    bottom = height - 56
    parts = [line([(across.at(each), top - 4), (across.at(each), bottom)], GRID) for each in columns]
    parts += [label(across.at(each), bottom + 20, f"{each:.4g}", fill=MUTED, text_anchor="middle") for each in columns]
    for number, (name, scores) in enumerate(rows):
        parts += _bar(name, scores, across, top + row_height * (number + 0.5), is_total=number == 0)
    parts.append(line([(left, top - 4), (left, bottom)], MUTED))
    parts.append(line([(20, top + row_height), (across.end, top + row_height)], MUTED, stroke_dasharray="2 3"))
    parts.append(label((left + across.end) / 2, height - 14, "bits per byte", fill=MUTED, text_anchor="middle"))
    parts += _legend([name for name in REFERENCES if name in total], y=60)
    return card(width, height, "Held-out text: bits per byte, less is better", parts)


def _bar(name: str, scores: Mapping[str, float], across: Axis, y: float, is_total: bool) -> list[str]:
    """One row: its name, the model's bar with its value, the references' markers."""
    weight = "bold" if is_total else "normal"
    end = across.at(scores["model"])
    return [
        label(across.begin - 12, y + 5, name, most=18, text_anchor="end", font_weight=weight),
        shape("rect", x=across.begin, y=y - 11, width=end - across.begin, height=22, rx=2, fill=MODEL),
        label(across.begin + 8, y + 5, f"{scores['model']:.2f}", fill=CARD, font_weight="bold"),
        *(marker(kind, across.at(scores[key]), y, colour) for key, (kind, colour) in MARKERS.items() if key in scores),
    ]


def _legend(names: Sequence[str], y: float) -> list[str]:
    parts, x = [], 20.0
    for name in names:
        kind, colour = MARKERS.get(name, ("bar", MODEL))
        bar = shape("rect", x=x, y=y - 7, width=14, height=14, rx=2, fill=MODEL)
        parts.append(bar if kind == "bar" else marker(kind, x + 7, y, colour))
        parts.append(label(x + 22, y + 5, REFERENCES[name], fill=MUTED))
        x += 46 + 6.7 * len(REFERENCES[name])
    return parts


# ---- the DAG ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A stage of dvc.yaml; one that is there for each source is one box."""

    name: str
    for_each: bool
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def read_boxes(text: str) -> list[Box]:
    """The stages that the dvc.yaml `text` has, in its order.

    Raises:
        Refusal: if it isn't a dvc.yaml.
    """
    try:
        stages = yaml.safe_load(text)["stages"]
        return [_box(name, stage) for name, stage in stages.items()]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise Refusal(f"dvc.yaml doesn't describe stages ({reason}); restore it from git") from None


def _box(name: str, stage: Mapping[str, Any]) -> Box:
    body = stage.get("do", stage)
    made = [out for key in ("outs", "metrics", "plots") for out in body.get(key, [])]
    outs = tuple(out if isinstance(out, str) else next(iter(out)) for out in made)
    return Box(name, "foreach" in stage or "matrix" in stage, tuple(body.get("deps", [])), outs)


def find_arrows(boxes: Sequence[Box]) -> list[tuple[str, str]]:
    """The pairs (before, after): a dependency of the second lies in an out of the first, or holds it."""
    return [
        (before.name, after.name)
        for before in boxes
        for after in boxes
        if any(_overlap(out, dependency) for out in before.outs for dependency in after.deps)
    ]


def _overlap(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)


def find_depths(boxes: Sequence[Box], arrows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """How many stages stand before each, on the longest way to it.

    Raises:
        Refusal: if the stages wait for each other in a circle.
    """
    before = {box.name: [first for first, second in arrows if second == box.name] for box in boxes}
    depths: dict[str, int] = {}
    try:
        for name in TopologicalSorter(before).static_order():
            depths[name] = max((depths[each] + 1 for each in before[name]), default=0)
    except CycleError as error:
        raise Refusal(f"dvc.yaml: the stages {', '.join(error.args[1])} wait for each other; mend their deps") from None
    return depths


BOX_WIDTH, BOX_HEIGHT, NOTE, GAP, ROW_GAP, STACK, LANE = 98, 54, 14, 28, 44, 8, 16
HEAD = {"right": (-1, 0), "up": (0, 1), "down": (0, -1)}  # where an arrow comes from


@dataclass(frozen=True)
class Lane:
    """A line beside the boxes that brings what `origin` made to stages further on."""

    origin: str
    targets: tuple[str, ...]
    is_below: bool
    level: int  # 0: next to the boxes
    colour: str


def find_lanes(arrows: Sequence[tuple[str, str]], depths: Mapping[str, int]) -> list[Lane]:
    """A lane for each stage from which an arrow passes over another, below and above in turn, the shorter inside."""
    targets: dict[str, list[str]] = {}
    for before, after in arrows:
        if depths[after] - depths[before] > 1:
            targets.setdefault(before, []).append(after)
    lanes = []
    for side in (0, 1):
        origins = list(targets)[side::2]
        origins.sort(key=lambda name: max(depths[after] for after in targets[name]) - depths[name])
        for level, name in enumerate(origins):
            colour = LANES[list(targets).index(name) % len(LANES)]
            lanes.append(Lane(name, tuple(targets[name]), side == 0, level, colour))
    return lanes


def draw_dag(boxes: Sequence[Box], sources: Sequence[str], notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """The picture of the stages, from left to right; a stack is a stage for each of `sources`.

    `notes` are lines of small type to stand in the boxes, by the name of the stage.
    """
    notes = notes or {}
    box_height = BOX_HEIGHT + NOTE * max((len(notes.get(box.name, ())) for box in boxes), default=0)
    arrows = find_arrows(boxes)
    depths = find_depths(boxes, arrows)
    lanes = find_lanes(arrows, depths)
    above, below = (sum(lane.is_below is side for lane in lanes) for side in (False, True))
    columns: dict[int, list[str]] = {}
    top = 64 + LANE * above
    places: dict[str, Point] = {}
    for box in boxes:
        column = columns.setdefault(depths[box.name], [])
        places[box.name] = (20 + depths[box.name] * (BOX_WIDTH + GAP), top + len(column) * (box_height + ROW_GAP))
        column.append(box.name)
    bottom = max(y for _, y in places.values()) + box_height
    width = max(max(x for x, _ in places.values()) + BOX_WIDTH + STACK + 20, 480)
    height = bottom + LANE * below + 56
    stacked = {box.name for box in boxes if box.for_each}
    parts = [part for lane in lanes for part in _draw_lane(lane, lanes, places, stacked, (top, bottom, box_height))]
    near = [(before, after) for before, after in arrows if depths[after] - depths[before] == 1]
    parts += [
        part
        for before, after in near
        for part in _draw_arrow(places[before], places[after], before in stacked, box_height)
    ]
    parts += [part for box in boxes for part in _draw_box(box, places[box.name], box_height, notes.get(box.name, ()))]
    if stacked:
        names = f"for each of {len(sources)} sources: {', '.join(sources)}"
        parts += _frames(22, height - 26, 20, 12, stack=4)
        parts.append(label(54, height - 16, names, fill=MUTED, most=int((width - 80) / 6.6)))
    return card(width, height, "The stages, and what flows between them", parts)


def _draw_box(box: Box, place: Point, height: float, notes: Sequence[str]) -> list[str]:
    x, y = place
    made = box.outs[0].split("/${")[0] if box.outs else ""
    made = made if len(made) < 17 else made.rpartition("/")[2]
    return [
        *_frames(x, y, BOX_WIDTH, height, STACK if box.for_each else 0),
        label(x + BOX_WIDTH / 2, y + 24, box.name, 14, most=12, text_anchor="middle", font_weight="bold"),
        label(x + BOX_WIDTH / 2, y + 42, made, 11, most=16, text_anchor="middle", fill=MUTED),
        *(
            label(x + BOX_WIDTH / 2, y + 45 + NOTE * line, note, 11, most=16, text_anchor="middle", fill=MUTED)
            for line, note in enumerate(notes, start=1)
        ),
    ]


def _frames(x: float, y: float, width: float, height: float, stack: float) -> list[str]:
    """A box, and two more behind it if `stack` says how far they reach beyond it."""
    offsets = (stack, stack / 2, 0) if stack else (0,)
    style: dict[str, str | float] = {"fill": "#f5f8fd", "stroke": "#4b6fae", "rx": 4}
    return [shape("rect", x=x + each, y=y - each, width=width, height=height, **style) for each in offsets]


def _draw_arrow(start: Point, end: Point, is_stacked: bool, height: float) -> list[str]:
    """From the right side of a box to the left side of one in the next column."""
    x, y = start[0] + BOX_WIDTH + (STACK if is_stacked else 0), start[1] + height / 2
    to_x, to_y = end[0] - 1, end[1] + height / 2
    return [line([(x, y), (to_x - 5, to_y)], MUTED, 1.6), _head(to_x, to_y, "right", MUTED)]


def _draw_lane(
    lane: Lane, lanes: Sequence[Lane], places: Mapping[str, Point], stacked: set[str], edges: tuple[float, float, float]
) -> list[str]:
    """From its origin to each of its targets; `edges`: top and bottom of all boxes, the height of one."""
    top, bottom, height = edges
    y = bottom + LANE * (lane.level + 1) if lane.is_below else top - STACK - LANE * (lane.level + 1)
    start = _port(lane, lane.origin, lanes, places)
    origin_y = places[lane.origin][1] + height / 2  # behind the box
    last = max(_port(lane, name, lanes, places) for name in lane.targets)
    strokes: list[list[Point]] = [[(start, origin_y), (start, y), (last, y)]]
    heads = []
    for name in lane.targets:
        x, target_y = _port(lane, name, lanes, places), places[name][1]
        tip = target_y + height + 1 if lane.is_below else target_y - (STACK if name in stacked else 0) - 1
        strokes.append([(x, y), (x, tip + (5 if lane.is_below else -5))])
        heads.append(_head(x, tip, "up" if lane.is_below else "down", lane.colour))
    # A white seam first, so that lines which cross don't seem to meet.
    seams, lines = ([line(each, *pen) for each in strokes] for pen in ((CARD, 5.0), (lane.colour, 1.6)))
    return [*seams, *lines, *heads]


def _port(lane: Lane, name: str, lanes: Sequence[Lane], places: Mapping[str, Point]) -> float:
    """Where `lane` touches the box `name`: beside the other lanes on that side, its own lane last."""
    beside = [each for each in lanes if each.is_below is lane.is_below]
    arriving = sorted((each for each in beside if name in each.targets), key=lambda each: each.level)
    order = [each.origin for each in arriving] + [each.origin for each in beside if each.origin == name]
    return places[name][0] + BOX_WIDTH * (order.index(lane.origin) + 1) / (len(order) + 1)


def _head(x: float, y: float, direction: str, colour: str) -> str:
    """An arrow's head with its tip at (x, y)."""
    back, down = HEAD[direction]
    corners = [(x, y)] + [(x + 8 * back + 4 * side * down, y + 8 * down + 4 * side * back) for side in (1, -1)]
    return shape("polygon", points=" ".join(f"{coordinate(a)},{coordinate(b)}" for a, b in corners), fill=colour)


# ---- files ------------------------------------------------------------------------------------------------


def draw_all(root: Path = Path()) -> dict[str, str]:
    """Each picture of the build in `root`, by the name of its file.

    Raises:
        Refusal: if a file that one is made of is missing, or isn't what a stage writes.
    """
    boxes = read_boxes(_text(root / "dvc.yaml", "restore it from git"))
    return {
        "dag.svg": draw_dag(boxes, source_names(root / "params.yaml")),
        "loss.svg": draw_loss(read_curve(root / "plots/loss.csv")),
        "bits_per_byte.svg": draw_bits_per_byte(*read_scores(root / "metrics/evaluate.json")),
    }


def read_curve(path: Path) -> list[tuple[float, float, float]]:
    """Tokens, loss and smoothed loss of each step in the CSV file `path`, but of those that were skipped."""
    try:
        rows = [row for row in csv.DictReader(io.StringIO(_text(path))) if row.get("skipped") != "1"]
        curve = [(float(row["tokens"]), float(row["loss"]), float(row["smoothed"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, Refusal):
            raise
        raise Refusal(f"{path} is not a loss curve ({error!r}); run `dvc repro` to make it again") from None
    if not curve or not all(math.isfinite(value) for row in curve for value in row):
        raise Refusal(f"{path} holds no steps, or a loss that is no number; run `dvc repro` to make it again")
    return curve


def read_scores(path: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Bits per byte of the model and its references in the JSON file `path`: over all, and by source."""
    try:
        metrics = json.loads(_text(path))
        total, sources = metrics["bits_per_byte"], metrics["sources"]
        rows = (total, *sources.values())
        scored = [{name: float(scores[name]) for name in REFERENCES if name in scores} for scores in rows]
        if not all("model" in scores for scores in scored):
            raise KeyError("model")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, Refusal):
            raise
        raise Refusal(f"{path} is not an evaluation ({error!r}); run `dvc repro` to make it again") from None
    return scored[0], dict(zip(sources, scored[1:], strict=True))


def write_pictures(folder: Path, root: Path = Path()) -> list[Path]:
    """Write the pictures of the build in `root` into `folder`, all or, if one can't be drawn, none."""
    pictures = draw_all(root)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).write_text(picture, encoding="utf-8")
    return [folder / name for name in pictures]


def _text(path: Path, mend: str = "run `dvc repro` to make it") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refusal(f"{path} is missing; {mend}") from None
