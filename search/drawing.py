"""A found network drawn as the ProxylessNAS paper does (arXiv:1812.00332, figure 5): a row of coloured blocks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .blocks import Block, blocks_of, candidates_of, kind_of

HUES = ("#2a9d8f", "#3d6fb6", "#d1603d", "#8a5fb0", "#b8862b", "#c2477f", "#5c7f3a", "#50708a")
FIXED, EMPTY = "#d5d8dc", "#ffffff"
ROW = 30
"""Blocks in a row of the picture, at most."""
_GAP, _LEAST = 0.14, 6.0
_HEIGHT, _LEGEND, _SCALE = 1.95, 1.45, 0.85


def network_png(space: SearchSpace, architecture: Architecture, *, title: str = "") -> bytes:
    """A picture of a network: blocks coloured by candidate, wide by kernel and high by expansion where these are known.

    Args:
        title: a line above it.
    """
    blocks = blocks_of(space, architecture)
    candidates = candidates_of(space)
    style = _Style(candidates)
    rows = [blocks[i : i + ROW] for i in range(0, len(blocks), ROW)]
    used = {block.kind for block in blocks}
    shown = [c for c in candidates if len(candidates) <= 12 or c.kind in used][:24]
    width = max([_LEAST] + [sum(style.width(b) + _GAP for b in row) for row in rows]) + 0.6
    columns = max(1, int(width / _LEGEND))
    legend = 0.22 * -(-len(shown) // columns)
    top = legend + (0.42 if title else 0.08)
    figure, axes = _canvas(width, -_HEIGHT * len(rows), top)
    for number, row in enumerate(rows):
        _draw_row(axes, row, style, -_HEIGHT * number - 1.12)
    _draw_legend(axes, shown, style, columns, legend - 0.11)
    axes.text(-0.25, top - 0.2, title, fontsize=10.5, va="center")
    return png(figure)


def candidate_colours(space: SearchSpace) -> dict[str, str]:
    """Colour of each kind of candidate (see `blocks.kind_of`), those that compute nothing in greys."""
    candidates = candidates_of(space)
    colours = dict(_Style(candidates).colours)
    empty = [c.kind for c in candidates if c.empty]
    colours |= {kind: lighter("#6e6e6e", (i + 1.5) / (len(empty) + 1.5)) for i, kind in enumerate(empty)}
    every = dict.fromkeys(kind_of(d, name) for d in space.decisions for name in d.candidates)
    around = [kind for kind in every if kind not in colours]  # candidates that consist of further choices
    return colours | {kind: HUES[-1 - i % len(HUES)] for i, kind in enumerate(around)}


class _Style:
    """Colours and sizes of the candidates of a space."""

    def __init__(self, candidates: Sequence[Block]) -> None:
        sized = [c for c in candidates if c.kernel is not None]
        self.kernels = sorted({c.kernel for c in sized if c.kernel is not None})
        self.expansions = sorted({c.expand for c in sized if c.expand is not None})
        self.colours: Mapping[str, str] = self._colours(candidates)

    def _colours(self, candidates: Sequence[Block]) -> dict[str, str]:
        """A hue for each kernel, lighter for small expansions; where names say neither, a hue for each candidate."""
        full = [c for c in candidates if not c.empty]
        paired = [(c.kernel, c.expand) for c in full]
        if all(k is not None for k, _ in paired) and len(set(paired)) == len(paired):
            return {c.kind: self._tone(c) for c in full} | {c.kind: EMPTY for c in candidates if c.empty}
        rounds = -(-len(full) // len(HUES))  # when the hues are used up they come again, lighter
        hues = {c.kind: lighter(HUES[i % len(HUES)], i // len(HUES) / (rounds + 1)) for i, c in enumerate(full)}
        return hues | {c.kind: EMPTY for c in candidates if c.empty}

    def _tone(self, block: Block) -> str:
        hue = HUES[self.kernels.index(block.kernel or 0) % len(HUES)]
        if block.expand is None or len(self.expansions) < 2:
            return hue
        return lighter(hue, 0.5 * (1 - self.expansions.index(block.expand) / (len(self.expansions) - 1)))

    def colour(self, block: Block) -> str:
        return FIXED if not block.kind else self.colours.get(block.kind, FIXED)

    def width(self, block: Block) -> float:
        if block.empty:
            return 0.42
        if not block.kind or block.kernel is None or len(self.kernels) < 2:
            return 0.62
        return 0.52 + 0.48 * self.kernels.index(block.kernel) / (len(self.kernels) - 1)

    def height(self, block: Block) -> float:
        if block.empty:
            return min(max(0.5, 0.08 * len(block.text)), 0.9)
        if not block.kind or block.expand is None or len(self.expansions) < 2:
            return 0.8
        return 0.72 + 0.28 * self.expansions.index(block.expand) / (len(self.expansions) - 1)


def _draw_row(axes: Any, row: Sequence[Block], style: _Style, base: float) -> None:
    """Blocks on a line, and below it a bracket for each stage with the shape of its output."""
    x, ends = 0.0, []
    for block in row:
        ends.append((x, x + style.width(block)))
        x = ends[-1][1] + _GAP
    axes.annotate(
        "",
        xy=(x + 0.12, base + 0.5),
        xytext=(-0.25, base + 0.5),
        arrowprops={"arrowstyle": "-|>", "color": "0.45", "linewidth": 1.0},
        zorder=1,
    )
    for block, (left, right) in zip(row, ends, strict=True):
        _draw_block(axes, block, style, left, right, base)
    positions = iter(zip(row, ends, strict=True))
    for number, (_, group) in enumerate(groupby(positions, key=lambda item: item[0].stage)):
        _draw_stage(axes, list(group), base, low=number % 2 == 1)


def _draw_block(axes: Any, block: Block, style: _Style, left: float, right: float, base: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    height, colour = style.height(block), style.colour(block)
    axes.add_patch(
        FancyBboxPatch(
            (left, base + 0.5 - height / 2),
            right - left,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=colour,
            edgecolor="0.55" if block.empty else "0.25",
            linestyle=(0, (3, 2)) if block.empty else "-",
            linewidth=0.8,
            zorder=2,
        )
    )
    text = _short(block.text, 16)
    size = min(7.5, 92 * height / max(len(text), 1))
    ink = "white" if is_dark(colour) else "0.15"
    axes.text(
        (left + right) / 2, base + 0.5, text, rotation=90, ha="center", va="center", fontsize=size, color=ink, zorder=3
    )


def _draw_stage(axes: Any, group: Sequence[tuple[Block, tuple[float, float]]], base: float, *, low: bool) -> None:
    """A bracket with the stage's name; texts of neighbours stand at two heights, so that they do not meet."""
    left, right = group[0][1][0], group[-1][1][1]
    stage, shape = group[0][0].stage, group[-1][0].shape
    y = base - 0.12
    axes.plot([left, left, right, right], [y + 0.05, y, y, y + 0.05], color="0.5", linewidth=0.8)
    narrow = right - left < 1.3
    text = f"{stage}\n{'×'.join(map(str, shape))}" if shape else stage
    offset = 0.32 if narrow and low else 0.03
    axes.text((left + right) / 2, y - offset, text, ha="center", va="top", fontsize=7, color="0.3", linespacing=1.25)


def _draw_legend(axes: Any, candidates: Sequence[Block], style: _Style, columns: int, top: float) -> None:
    from matplotlib.patches import Rectangle

    for i, candidate in enumerate(candidates):
        x, y = -0.25 + _LEGEND * (i % columns), top - 0.22 * (i // columns)
        dashes = (0, (2, 1.5)) if candidate.empty else "-"
        swatch: dict[str, Any] = {
            "facecolor": style.colour(candidate),
            "edgecolor": "0.4",
            "linestyle": dashes,
            "linewidth": 0.7,
        }
        axes.add_patch(Rectangle((x, y - 0.05), 0.16, 0.1, **swatch))
        text = candidate.text if candidate.text == candidate.kind else f"{candidate.text} ({candidate.kind})"
        axes.text(x + 0.22, y, _short(text, 20), fontsize=7, va="center")


def lighter(colour: str, share: float) -> str:
    """A colour mixed with so much white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(p + (255 - p) * share):02x}" for p in parts)


def is_dark(colour: str) -> bool:
    """Whether white text reads better on it than black."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _canvas(width: float, bottom: float, top: float) -> tuple[Any, Any]:
    """Axes that fill a figure; one unit is as long in both directions, so that texts fit what they are in."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * _SCALE, (top - bottom) * _SCALE), dpi=150)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-0.35, width - 0.35)
    axes.set_ylim(bottom, top)
    return figure, axes


def png(figure: Any) -> bytes:
    """The picture of a figure, without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    return data.getvalue()
