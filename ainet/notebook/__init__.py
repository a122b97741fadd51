"""What is used and shown inside a notebook."""
