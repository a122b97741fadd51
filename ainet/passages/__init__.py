"""How files become passages. This runs in workers: files may be anything, and take long."""
