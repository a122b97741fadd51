"""Bytes between two devices."""
