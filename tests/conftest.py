"""Fixtures that every test may use."""

import signal

from hypothesis import settings
from support.nodes import jupyter_dirs, node_dir, own_jupyter
from support.smollm2 import smollm2_manifest, smollm2_path, smollm2_store

__all__ = ["jupyter_dirs", "node_dir", "own_jupyter", "smollm2_manifest", "smollm2_path", "smollm2_store"]

# A shell that runs the tests in the background lets them ignore Ctrl-C, and with them the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does.
settings.register_profile("ainet", deadline=None)
settings.load_profile("ainet")
