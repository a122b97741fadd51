"""Dask workers that members lend to the owner's own code."""
