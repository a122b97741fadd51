"""What a node says to its owner and takes from it, and the verbs for it: the same in Python, over HTTP and as JSON."""
