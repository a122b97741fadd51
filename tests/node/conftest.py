"""Fixtures of tests that start processes."""

from support.workshop import workshop

__all__ = ["workshop"]
