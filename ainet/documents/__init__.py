"""Documents that several devices edit, and how they are exchanged."""
