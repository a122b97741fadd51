"""What the members of a swarm tell each other and agree on."""
