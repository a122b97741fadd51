"""Vectors of passages, in a worker: models that make them, and the LanceDB tables that hold them."""
