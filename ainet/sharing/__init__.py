"""Notebooks that several devices edit together."""
