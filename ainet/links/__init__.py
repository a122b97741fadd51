"""Authenticated links between nodes, and everything that goes over them."""
