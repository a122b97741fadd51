"""The words of stages, requesters and nodes about a pipeline."""
