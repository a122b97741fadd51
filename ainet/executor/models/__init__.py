"""Models: what a GGUF file holds, which tensors a range of layers needs, and where they lie."""
