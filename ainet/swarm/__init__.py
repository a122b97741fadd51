"""Announcements and agreements of the members of a swarm."""
