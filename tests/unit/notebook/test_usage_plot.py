"""The picture of what devices did."""

from __future__ import annotations

import re
import time
from xml.etree import ElementTree as ET

from ainet.api.economy import Usage, UsageDay
from ainet.notebook.usage_plot import HEIGHT, usage_svg

TODAY = time.strftime("%Y-%m-%d")


def usage(days=7, **seconds):
    plot = [UsageDay(day=TODAY, device=name, seconds=each, tokens=1) for name, each in seconds.items()]
    return Usage(days=days, by="peer", sums=[], plot=plot)


def test_a_day_is_a_bar_with_a_part_for_each_device():
    picture = usage_svg(usage(desk=90.0, laptop=30.0))
    root = ET.fromstring(picture)  # noqa: S314 - it is our own
    bars = [one for one in root.iter() if one.tag.endswith("rect") and len(one)]
    assert [round(float(one.get("height"))) for one in bars] == [round(0.75 * HEIGHT), round(0.25 * HEIGHT)]
    assert [one[0].text for one in bars] == [f"{TODAY}: desk, 1.5 min", f"{TODAY}: laptop, 30 s"]
    assert "2 min" in picture
    assert picture.count(TODAY[5:]) >= 1


def test_names_are_no_markup_and_an_empty_week_is_no_picture():
    assert "<script" not in usage_svg(usage(**{"<script>": 5.0}))
    assert usage_svg(usage()) == ""
    assert usage_svg(usage(desk=0.0)) == ""


def test_a_year_names_some_of_its_days():
    picture = usage_svg(usage(days=365, desk=5.0))
    assert 5 < len(re.findall(r">\d\d-\d\d<", picture)) < 20
