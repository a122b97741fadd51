"""Line charts as SVG, for the documentation: no package for it, and readable on light and on dark ground."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 48, 200, 34, 36
#: Of lines, in their order (Okabe and Ito's, which colour-blind people can tell apart), and of everything else.
COLOURS, GREY = ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), "#808080"


def write_chart(path: Path, title: str, lines: Mapping[str, Sequence[float]], *, along: str) -> None:
    """Write a chart of shares (0 to 1).

    Parameters
    ----------
    lines
        By what they are called, a share for each step.
    along
        What a step is; the first is 1.
    """
    n = max(map(len, lines.values()))
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(step: int, share: float) -> str:
        return f"{LEFT + across * step / max(n - 1, 1):.1f},{TOP + down * (1 - share):.1f}"

    parts = [f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = TOP + down * (1 - share)
        parts.append(f'<path d="M{LEFT},{y:.1f}h{across}" stroke="{GREY}" stroke-opacity="0.4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for step in (0, n - 1):
        x = LEFT + across * step / max(n - 1, 1)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{step + 1}</text>')
    parts.append(f'<text x="{LEFT + across / 2:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{escape(along)}</text>')
    for i, (name, shares) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(at(step, share) for step, share in enumerate(shares))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 12 + 18 * i}" fill="{colour}">{escape(name)}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11" fill="{GREY}" role="img" aria-label="{escape(title)}">\n' + "\n".join(parts) + "\n</svg>\n"
    )
