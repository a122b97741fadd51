"""The personal context: which files are known, how they are kept up to date, and how they are asked."""
