"""The model API: what speaks OpenAI's API asks this node, unchanged."""
