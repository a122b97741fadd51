"""What ainet shows inside a notebook."""

from ainet_widgets.placement import PlacementBar

__all__ = ["PlacementBar"]
