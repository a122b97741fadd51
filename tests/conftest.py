"""Fixtures that every test may use; what a test may do and how long it may take, by its folder."""

import faulthandler
import itertools
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings
from support.effort import examples
from support.nodes import jupyter_dirs, node_dir, own_jupyter
from support.smollm2 import smollm2_manifest, smollm2_path, smollm2_store

__all__ = ["jupyter_dirs", "node_dir", "own_jupyter", "smollm2_manifest", "smollm2_path", "smollm2_store"]

#: The seconds in which a test must end.
LIMITS = {"unit": 120, "node": 180, "e2e": 300}

#: What a test does in a thread or in a library, no limit of time interrupts: after so many times its seconds, the
#: process says where it hangs, and ends. Whoever has distributed the tests names the test then.
HANGS = 3
#: Where it says so: the error output of the whole run.
TOLD: pytest.StashKey[int] = pytest.StashKey()

#: Folders with files that take minutes.
SLOW = ("e2e", "node/models")

# A shell that runs the tests in the background lets them ignore Ctrl-C, and with them the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does.
settings.register_profile("ainet", deadline=None, max_examples=examples(100))
settings.load_profile("ainet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder; one that starts a process in a file of others that do not says so itself.

    Slow files come early, each between two others: these few take minutes, and most wait more than they compute.
    """
    for item in items:
        kind = item.path.relative_to(Path(__file__).parent).parts[0]
        if kind == "unit" and item.get_closest_marker("node"):
            kind = "node"
        item.add_marker(kind)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMITS[kind]))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    folder = Path(__file__).parent
    is_slow = [any(folder / name in path.parents for name in SLOW) for path in files]
    slow = list(itertools.compress(files.values(), is_slow))
    others = list(itertools.compress(files.values(), (not one for one in is_slow)))
    order = [tests for three in itertools.zip_longest(slow, others[::2], others[1::2], fillvalue=[]) for tests in three]
    items[:] = itertools.chain.from_iterable(order)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """End the process where a test, or what cleans up behind it, cannot be ended."""
    with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        item.stash[TOLD] = os.dup(2)
    _end_later(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(item.stash[TOLD])


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Go on watching behind a failure, at which pytest stops that."""
    if isinstance(node, pytest.Item) and TOLD in node.stash:
        _end_later(node)


def _end_later(item: pytest.Item) -> None:
    marker = item.get_closest_marker("timeout")
    assert marker is not None
    faulthandler.dump_traceback_later(HANGS * marker.args[0], exit=True, file=item.stash[TOLD])
