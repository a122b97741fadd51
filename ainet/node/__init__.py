"""The node: one device's ainet, put together from its layers."""
