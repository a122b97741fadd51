"""The hosting side: this node's work for pipelines, its own and those of members."""
