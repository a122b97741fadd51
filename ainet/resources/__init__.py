"""What a device has, what its owner gives of it, and who uses how much."""
