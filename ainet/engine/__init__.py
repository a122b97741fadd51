"""The Dask cluster of this device, in child processes."""
