"""Stages: a shard at work in a Dask worker, and the connections between stages."""
