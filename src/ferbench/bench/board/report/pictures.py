"""The page's pictures as inline SVG: coordinates rounded to a tenth, colours by class, every text escaped.

Each is one figure with a `role` and a label for those who do not see it; what it shows stands in a table nearby, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10

from markupsafe import Markup, escape

COLOURS = 7  # classes c0 to c6 in page.css
GREY = 7  # of all other rows


@dataclass(frozen=True)
class Point:
    """One cell in the picture of published against measured; low and high: the interval of the measured mean."""

    published: float
    measured: float
    low: float | None
    high: float | None
    label: str
    comparable: bool


@dataclass(frozen=True)
class Curve:
    """One row's test accuracy by epoch: the seeds' mean, least and greatest."""

    label: str
    colour: int
    at: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One row's difference from another, with its interval."""

    label: str
    mean: float
    low: float | None
    high: float | None


class _Frame:
    """A plot area with linear axes; x and y map a value to a coordinate."""

    def __init__(self, width: int, height: int, x: tuple[float, float], y: tuple[float, float], left: int = 44) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, width - 12, 24, height - 34
        self.x_range, self.y_range = _widened(x), _widened(y)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - self.top), 1)

    def axes(self, x_label: str, y_label: str) -> str:
        parts = []
        for value in ticks(*self.y_range):
            at = self.y(value)
            parts.append(f'<path class="grid" d="M{self.left} {at}H{self.right}"/>')
            parts.append(f'<text class="tick end" x="{self.left - 5}" y="{at + 3.5}">{value:g}</text>')
        for value in ticks(*self.x_range):
            at = self.x(value)
            parts.append(f'<text class="tick mid" x="{at}" y="{self.bottom + 14}">{value:g}</text>')
        parts.append(f'<text class="axis end" x="{self.right}" y="{self.height - 4}">{escape(x_label)}</text>')
        parts.append(f'<text class="axis" x="2" y="11">{escape(y_label)}</text>')
        return "".join(parts)

    def wrap(self, inside: Iterable[str], label: str) -> Markup:
        head = f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'
        return Markup(head + "".join(inside) + "</svg>")


def scatter(points: Sequence[Point]) -> Markup:
    """Published against measured means in percent, a point per cell; on the line the two are equal."""
    values = [value for point in points for value in (point.published, point.measured, point.low, point.high)]
    known = [value for value in values if value is not None]
    span = max(0.0, min(known) - 2), min(100.0, max(known) + 2)
    frame = _Frame(460, 400, span, span)
    low, high = frame.x_range
    inside = [frame.axes("published, %", "measured, %")]
    inside.append(f'<path class="rule" d="M{frame.x(low)} {frame.y(low)}L{frame.x(high)} {frame.y(high)}"/>')
    for point in points:
        x, kind = frame.x(point.published), "yes" if point.comparable else "no"
        if point.low is not None and point.high is not None:
            lower, upper = max(point.low, low), min(point.high, high)
            inside.append(f'<path class="whisker" d="M{x} {frame.y(lower)}V{frame.y(upper)}"/>')
        text = escape(f"{point.label}: published {point.published:.2f}, measured {point.measured:.2f}")
        inside.append(f'<circle class="dot {kind}" cx="{x}" cy="{frame.y(point.measured)}" r="3.5">')
        inside.append(f"<title>{text}</title></circle>")
    comparable = sum(point.comparable for point in points)
    label = f"Published against measured accuracy of {len(points)} cells, {comparable} of them comparable"
    return frame.wrap(inside, label)


def curves(found: Sequence[Curve], what: str) -> Markup:
    """Lines over epochs, with a band from the least to the greatest seed."""
    every = [value for curve in found for value in (*curve.low, *curve.high)]
    ends = [at for curve in found for at in curve.at]
    frame = _Frame(460, 250, (min(ends), max(ends)), (min(every), max(every)))
    inside = [frame.axes("epoch", what)]
    for curve in found:
        if list(curve.low) != list(curve.high):
            upper = [f"{frame.x(at)} {frame.y(value)}" for at, value in zip(curve.at, curve.high, strict=True)]
            lower = [f"{frame.x(at)} {frame.y(value)}" for at, value in zip(curve.at, curve.low, strict=True)]
            inside.append(f'<path class="band c{curve.colour}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>')
    for curve in found:
        line = [f"{frame.x(at)} {frame.y(value)}" for at, value in zip(curve.at, curve.mean, strict=True)]
        inside.append(
            f'<path class="line c{curve.colour}" d="M{"L".join(line)}"><title>{escape(curve.label)}</title></path>'
        )
    ending = ", ".join(f"{curve.label} {curve.mean[-1]:.1f}" for curve in found)
    return frame.wrap(inside, f"{what} by epoch; at the end: {ending}")


def differences(found: Sequence[Bar], base: str) -> Markup:
    """A point and its interval per row, beside the line of no difference."""
    ends = [value for bar in found for value in (bar.mean, bar.low, bar.high, 0.0) if value is not None]
    height = 64 + 22 * len(found)
    frame = _Frame(460, height, (min(ends), max(ends)), (0, len(found)), left=170)
    inside = [f'<path class="rule" d="M{frame.x(0)} {frame.top}V{frame.bottom}"/>']
    for position, bar in enumerate(found):
        y = frame.top + 22 * position + 12
        apart = bar.low is not None and bar.high is not None and (bar.low > 0 or bar.high < 0)
        kind = "yes" if apart else "no"
        inside.append(f'<text class="tick end" x="162" y="{y + 3.5}">{escape(_short(bar.label))}</text>')
        if bar.low is not None and bar.high is not None:
            inside.append(f'<path class="whisker {kind}" d="M{frame.x(bar.low)} {y}H{frame.x(bar.high)}"/>')
        inside.append(f'<circle class="dot {kind}" cx="{frame.x(bar.mean)}" cy="{y}" r="4">')
        inside.append(f"<title>{escape(_difference(bar))}</title></circle>")
    for value in ticks(*frame.x_range):
        inside.append(f'<text class="tick mid" x="{frame.x(value)}" y="{height - 20}">{value:g}</text>')
    inside.append(
        f'<text class="axis end" x="{frame.right}" y="{height - 4}">points from {escape(_short(base))}</text>'
    )
    return frame.wrap(inside, f"Differences from {base}: " + "; ".join(_difference(bar) for bar in found))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between low and high."""
    step = 10 ** floor(log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = int(-(-low // step))
    return [round(position * step, 10) for position in range(first, int(high // step) + 1)]


def _difference(bar: Bar) -> str:
    interval = f" [{bar.low:+.2f}, {bar.high:+.2f}]" if bar.low is not None and bar.high is not None else ""
    return f"{bar.label} {bar.mean:+.2f}{interval}"


def _short(text: str) -> str:
    return text if len(text) <= 26 else text[:25] + "…"


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    return (low, high) if high > low else (low - 1, high + 1)
