"""Models: GGUF files, their tensors, and shards made of them."""
