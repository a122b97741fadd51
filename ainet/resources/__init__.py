"""The resources of a device, the owner's caps, and their use."""
