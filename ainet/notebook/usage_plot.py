"""What devices did, day by day, as a picture: a bar for each day, a part for each device."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING

from ainet.notebook.picture import INK
from ainet.units import DAY, show_seconds

if TYPE_CHECKING:
    from ainet.api.economy import Usage

#: Pixels: of the picture, of its margins, and of the widest bar.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, BAR = 560, 150, 56, 22, 10, 46
#: Colours that are told apart on light and dark pages, also by who sees no red or green.
COLOURS = ("#3b82c4", "#e0892b", "#3a9d73", "#b25fa5", "#8a8f98", "#c9a227")
#: Days below which each one is named.
NAMED = 14


def usage_svg(usage: Usage) -> str:
    """Return usage as an SVG; nothing where nothing was done."""
    worked = {(one.day, one.device): one.seconds for one in usage.plot}
    if not any(worked.values()):
        return ""
    days, devices = _days(usage.days), sorted({device for _, device in worked})
    most = max(sum(worked.get((day, device), 0.0) for device in devices) for day in days) or 1.0
    step = (WIDTH - LEFT) / len(days)
    width = min(BAR, 0.8 * step)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + HEIGHT + BOTTOM + 20}" width="{WIDTH}" '
        f'style="font: 11px sans-serif" fill="{INK}">',
        f'<path d="M{LEFT} {TOP}V{TOP + HEIGHT}H{WIDTH}" stroke="{INK}" opacity="0.4" fill="none"/>',
        f'<text x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{show_seconds(most)}</text>',
        f'<text x="{LEFT - 6}" y="{TOP + HEIGHT}" text-anchor="end">0</text>',
    ]
    for i, day in enumerate(days):
        x, y = LEFT + step * (i + 0.5), float(TOP + HEIGHT)
        for device in devices:
            seconds = worked.get((day, device), 0.0)
            height = HEIGHT * seconds / most
            y -= height
            if seconds:
                words = html.escape(f"{day}: {device}, {show_seconds(seconds)}")
                parts.append(
                    f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                    f'fill="{_colour(devices, device)}"><title>{words}</title></rect>'
                )
        if len(days) <= NAMED or i % (len(days) // NAMED + 1) == 0:
            parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 15}" text-anchor="middle">{day[5:]}</text>')
    x = float(LEFT)
    for device in devices:
        y = TOP + HEIGHT + BOTTOM + 4
        parts.append(
            f'<rect x="{x}" y="{y}" width="10" height="10" fill="{_colour(devices, device)}"/>'
            f'<text x="{x + 14}" y="{y + 9}">{html.escape(device)}</text>'
        )
        x += 30 + 7 * len(device)
    return "".join([*parts, "</svg>"])


def _colour(devices: list[str], device: str) -> str:
    return COLOURS[devices.index(device) % len(COLOURS)]


def _days(n: int) -> list[str]:
    """Return the last days, today included."""
    noon = time.mktime((*time.localtime()[:3], 12, 0, 0, 0, 0, -1))
    return [time.strftime("%Y-%m-%d", time.localtime(noon - DAY * back)) for back in reversed(range(n))]
