"""The Jupyter server extension: the server is the node."""
