"""Fixtures of tests of several devices."""

from support.reaper import nothing_left

__all__ = ["nothing_left"]
