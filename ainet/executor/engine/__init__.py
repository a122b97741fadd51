"""The engine: the Dask cluster whose workers hold the stages."""
