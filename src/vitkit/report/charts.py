"""Draws line charts, reliability diagrams and scatter plots as SVG, styled with the CSS of the report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named series of points in a line chart. `style` is a CSS class, and `dots` draws a dot at every point."""

    name: str
    points: Sequence[Point]
    style: str
    dots: bool = False


def line_chart(
    lines: Sequence[Line], *, title: str, percent: bool = False, limits: tuple[float, float] | None = None
) -> str:
    """Draws a line chart with training steps on the x axis. Raises ValueError if all series are empty."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError(f"the chart '{title}' has no points; expected at least one")
    low, high = limits or _limits([y for _, y in points])
    last = max(x for x, _ in points) or 1.0

    def position(point: Point) -> Point:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(point[1], low), high)) / (high - low)
        return x, y

    parts = [_frame(title)]
    for value in ticks(low, high):
        y = position((0.0, value))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{show(value, percent=percent)}</text>')
    for value in ticks(0.0, last, most=4):
        x = position((value, low))[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{value:,.0f}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    for line in lines:
        parts.append(_series(line, [position(point) for point in line.points], percent))
    return "".join(parts) + "</svg>"


def reliability_chart(bins: Sequence[tuple[float, float, int]]) -> str:
    """Draws a reliability diagram from bins, each a tuple (mean confidence, accuracy, number of images)."""
    side, pad = 280, 48
    inner = side - 2 * pad
    parts = [f'<svg viewBox="0 0 {side} {side}" role="img" aria-label="calibration">']
    x0, x1, y0, y1 = pad, side - pad, side - pad, pad
    parts.append(f'<line class="grid" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y0}"/>')
    parts.append(f'<line class="grid" x1="{x0}" y1="{y0}" x2="{x0}" y2="{y1}"/>')
    parts.append(f'<line class="ideal" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')
    most = max((count for _, _, count in bins), default=1)
    for confidence, accuracy, count in bins:
        x, y = x0 + inner * confidence, y0 - inner * accuracy
        radius = 3 + 7 * math.sqrt(count / most)
        tip = f"{count} images: mean confidence {confidence:.0%}, accuracy {accuracy:.0%}"
        parts.append(f'<circle class="val" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{tip}</title></circle>')
    for value in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{x0 + inner * value}" y="{y0 + 18}" text-anchor="middle">{value:.0%}</text>')
        parts.append(f'<text x="{x0 - 6}" y="{y0 - inner * value + 4}" text-anchor="end">{value:.0%}</text>')
    parts.append(f'<text x="{x1}" y="{y0 + 34}" text-anchor="end">confidence</text>')
    parts.append(f'<text x="{x0 - 42}" y="{y1 - 14}">accuracy</text>')
    return "".join(parts) + "</svg>"


def scatter_chart(points: Sequence[Point], most: int = 2000) -> str:
    """Draws predicted against true values. At most `most` points are drawn, evenly chosen from all points."""
    side, pad = 280, 48
    inner = side - 2 * pad
    values = [value for point in points for value in point]
    low, high = min(values), max(values)
    marks = ticks(low, high if high > low else low + 1.0, most=4, outside=True)
    low, high = marks[0], marks[-1]

    def place(value: float) -> float:
        return inner * (value - low) / (high - low)

    parts = [f'<svg viewBox="0 0 {side} {side}" role="img" aria-label="predicted and true values">']
    parts.append(f'<line class="ideal" x1="{pad}" y1="{side - pad}" x2="{side - pad}" y2="{pad}"/>')
    for value in marks:
        x, y = pad + place(value), side - pad - place(value)
        parts.append(f'<line class="grid" x1="{pad}" y1="{y:.1f}" x2="{side - pad}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{side - pad + 18}" text-anchor="middle">{show(value)}</text>')
        parts.append(f'<text x="{pad - 6}" y="{y + 4:.1f}" text-anchor="end">{show(value)}</text>')
    for true, predicted in points[:: max(1, -(-len(points) // most))]:
        x, y = pad + place(true), side - pad - place(predicted)
        tip = f"true {true:.6g}, predicted {predicted:.6g}"
        parts.append(f'<circle class="val" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{tip}</title></circle>')
    parts.append(f'<text x="{side - pad}" y="{side - 12}" text-anchor="end">true value</text>')
    parts.append(f'<text x="{pad - 42}" y="{pad - 14}">predicted</text>')
    return "".join(parts) + "</svg>"


def smoothed(points: Sequence[Point], fraction: float = 0.1) -> list[Point]:
    """Smooths a series with a moving average, whose window is a fraction of the number of points."""
    half = max(1, int(len(points) * fraction) // 2)
    windows = [points[max(0, index - half) : index + half + 1] for index in range(len(points))]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def ticks(low: float, high: float, *, most: int = 5, outside: bool = False) -> list[float]:
    """Returns up to `most` + 1 axis ticks from `low` to `high`, at multiples of 1, 2 or 5 times a power of ten.

    With `outside`, the first and the last tick may lie outside this range, so that all values lie between them.
    """
    span = max(high - low, 1e-12)
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    if outside:
        return [number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def show(value: float, *, percent: bool = False) -> str:
    """Formats an axis label without trailing zeros."""
    if percent:
        return f"{value * 100:.4g}%"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _limits(values: Sequence[float]) -> tuple[float, float]:
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return 0.0, 1.0
    low, high = min(0.0, finite[0]), finite[-1]
    return low, high if high > low else low + 1.0


def _frame(title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'


def _series(line: Line, positions: Sequence[Point], percent: bool) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
    parts = [f'<polyline class="{line.style}" points="{path}"/>']
    if line.dots:
        for (x, y), (step, value) in zip(positions, line.points, strict=True):
            shown = f"{value:.2%}" if percent else f"{value:.4g}"
            tip = f"{escape(line.name)} at step {step:,.0f}: {shown}"
            parts.append(
                f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{tip}</title></circle>'
            )
    return "".join(parts)
