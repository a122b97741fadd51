"""What programs and notebooks on this device use to talk to its node."""
