"""What this node does for pipelines, its own and those of members."""
