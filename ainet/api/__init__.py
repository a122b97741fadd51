"""The views and verbs of a node, for its owner: the same in Python, over HTTP and as JSON."""
