"""Lending: Dask workers of members for the owner's own code."""
