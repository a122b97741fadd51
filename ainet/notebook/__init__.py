"""The magics, and answers in cells."""
