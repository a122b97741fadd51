"""Fixtures that every test may use."""

from smollm2 import smollm2_manifest, smollm2_path, smollm2_store

__all__ = ["smollm2_manifest", "smollm2_path", "smollm2_store"]
