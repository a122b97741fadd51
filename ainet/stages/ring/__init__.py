"""The connections between the stages of a pipeline, and what goes over them."""
