"""Who this device is: its keys, its certificate, its swarm and that swarm's roster."""
