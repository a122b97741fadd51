"""The version of what makes passages."""

#: With another one, the passages of all files are made anew.
PARSER = "1"
