"""The way of programs and notebooks on this device to its node."""
