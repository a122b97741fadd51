"""A shard of a model, with its keys and values, in a Dask worker."""
