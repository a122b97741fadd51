"""Fixtures of tests that start processes."""

from support.reaper import nothing_left
from support.workshop import timing, workshop

__all__ = ["nothing_left", "timing", "workshop"]
