"""Notebooks that several devices edit together."""

from ainet.sharing.notebooks import Notebooks
from ainet.sharing.shares import Shares

__all__ = ["Notebooks", "Shares"]
