"""No range of layers, and no damaged description, ends the process."""

from __future__ import annotations

import json

import pytest
from support.architectures import TINY
from support.children import child

#: Of the damages that are possible, each n-th is tried.
EVERY_NTH = 8
#: Layouts of each model, besides its own, whose ranges are all tried.
LAYOUTS = 2


@pytest.mark.parametrize("architecture", sorted({tiny.architecture for tiny in TINY.values()}))
def test_no_range_of_layers_ends_the_process(architecture, tmp_path):
    """Whatever kinds of layers follow each other: a range is refused in words, or llama.cpp prepares to run it."""
    done = child("support.every_range", architecture, str(tmp_path), str(LAYOUTS))
    assert done.returncode == 0, f"{done.stdout[-300:]} {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["prepared"] > 0


@pytest.mark.parametrize("architecture", sorted({tiny.architecture for tiny in TINY.values()}))
def test_no_damaged_description_ends_the_process(architecture, tmp_path):
    """A key or a tensor left out, another number, kinds of layers in another order: words, or it is prepared."""
    done = child("support.mutations", architecture, str(tmp_path), str(EVERY_NTH))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tried"] > 10
    assert found["dead"] == []
