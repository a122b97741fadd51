"""What stages, requesters and nodes say to each other about a pipeline."""
