"""What runs in a Dask worker: a shard of a model with its keys and values."""
