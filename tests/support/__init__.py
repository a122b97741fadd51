"""What tests have in common: devices, nodes, networks and models of their own, and what is asked of them."""
