"""What the owner's devices know: rows, full text, vectors, and the relations between them."""
