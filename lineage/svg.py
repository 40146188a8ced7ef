"""Shapes, axes and a white card to draw on, as SVG text. Equal values make equal bytes; all text is escaped."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from lineage.plain import plain

INK, MUTED, GRID, CARD = "#1f2933", "#5b6673", "#e3e7ec", "#ffffff"

Point = tuple[float, float]


def shape(kind: str, content: str = "", /, **attributes: str | float) -> str:
    """An SVG element; `content` is markup. `_` in an attribute's name stands for `-`."""
    given = "".join(f" {name.replace('_', '-')}={quoteattr(coordinate(value))}" for name, value in attributes.items())
    return f"<{kind}{given}>{content}</{kind}>" if content else f"<{kind}{given}/>"


def label(x: float, y: float, text: str, size: int = 13, most: int = 60, **attributes: str | float) -> str:
    """A line of text, escaped, cut after `most` characters; `y` is where it stands."""
    shown = plain(text).replace("\n", " ").replace("\t", " ")
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    return shape("text", escape(shown), **{"x": x, "y": y, "font_size": size, "fill": INK, **attributes})


def line(points: Iterable[Point], colour: str, width: float = 1.0, **attributes: str | float) -> str:
    """A line through `points`."""
    path = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
    return shape("polyline", points=path, fill="none", stroke=colour, stroke_width=width, **attributes)


def card(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A whole picture: `parts` on a white card under its `title`."""
    frame = shape("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=8, fill=CARD, stroke="#d0d7de")
    head = label(20, 30, title, size=16, font_weight="bold")
    content = "\n".join(["", shape("title", escape(plain(title))), frame, head, *parts, ""])
    return shape(
        "svg", content, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        width=width, height=height, role="img", font_family="sans-serif",
    ) + "\n"  # fmt: skip


def marker(kind: str, x: float, y: float, colour: str) -> str:
    """A small sign around (x, y)."""
    if kind == "circle":
        return shape("circle", cx=x, cy=y, r=4.5, fill=CARD, stroke=colour, stroke_width=2)
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
        "triangle": ((0, -6), (6, 5), (-6, 5)),
    }[kind]
    points = " ".join(f"{coordinate(x + right)},{coordinate(y + down)}" for right, down in corners)
    return shape("polygon", points=points, fill=colour, stroke=CARD)


def coordinate(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Axis:
    """Where the values from `low` to `high` lie, from `begin` to `end` on the picture."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """The place of `value`."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def tick_step(span: float, wanted: int = 5) -> float:
    """The least of 1, 2, 5, 10, … that divides `span` into at most `wanted` parts."""
    magnitude = 10.0 ** math.floor(math.log10(span / wanted))
    return next(size * magnitude for size in (1, 2, 5, 10) if size * magnitude * wanted >= span * (1 - 1e-9))


def ticks(low: float, high: float) -> list[float]:
    """Round values that enclose `low` and `high`, about five steps apart."""
    step = tick_step(high - low if high > low else max(abs(high), 1.0))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [count * step for count in range(first, max(last, first + 1) + 1)]


def short_number(value: float) -> str:
    """`value` as people write it: 1.5M, 20k."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
