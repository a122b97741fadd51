"""What devices of different owners do for each other: metered, acknowledged, settled in pairs."""
