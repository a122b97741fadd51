"""The ``ainet`` command: its subcommands, and how what they found is shown."""
