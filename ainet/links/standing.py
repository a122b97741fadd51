"""The standing of another device, and the requests that it may therefore make."""

from __future__ import annotations

import enum


class Standing(enum.IntEnum):
    """The higher, the more a device is trusted: whoever may do something, may do all that is below."""

    #: A device of which nothing is known; linked only where its owner and this one deal with strangers.
    STRANGER = 1
    #: Another owner's device, which was introduced: gets what is shared with it.
    CONTACT = 2
    #: A device of the same owner.
    MEMBER = 3

    def permits(self, audience: Standing) -> bool:
        """Whether a device of this standing may do what is for `audience`."""
        return self >= audience


def stranger_name(node_id: str) -> str:
    """Return what a device of which nothing is known is called here."""
    return f"stranger {node_id[:8]}"
