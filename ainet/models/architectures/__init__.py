"""Which architectures may be split between devices, and how."""
