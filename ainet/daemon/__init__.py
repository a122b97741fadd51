"""The node as a process of this device: starting and stopping it, what it tells others, its log."""
