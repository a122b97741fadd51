"""What ainet shows inside a notebook; each widget is imported by what shows it."""
