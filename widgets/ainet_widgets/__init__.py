"""The widgets of ainet; each is imported by the code that shows it."""
