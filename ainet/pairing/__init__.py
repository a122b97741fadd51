"""The ways in which a device becomes a member or a contact."""
