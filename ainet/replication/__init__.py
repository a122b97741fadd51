"""The owner's files on the owner's other devices."""
