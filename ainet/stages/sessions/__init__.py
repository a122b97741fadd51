"""Sessions on a pipeline: who is next, and what is sampled."""
