"""How a device becomes a member or a contact."""
