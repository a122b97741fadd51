"""The identity of this device: its keys, its certificate, its swarm and that swarm's roster."""
