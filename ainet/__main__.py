"""``python -m ainet`` is the ``ainet`` command."""

from __future__ import annotations

import sys

from ainet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
