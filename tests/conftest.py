"""Fixtures that every test may use."""

from nodes import jupyter_dirs, node_dir
from smollm2 import smollm2_manifest, smollm2_path, smollm2_store

__all__ = ["jupyter_dirs", "node_dir", "smollm2_manifest", "smollm2_path", "smollm2_store"]
