"""The standing of another device, and the requests that it may therefore make."""

from __future__ import annotations

import enum


class Standing(enum.IntEnum):
    """The higher, the more a device is trusted: whoever may do something, may do all that is below."""

    #: Another owner's device, which was introduced: gets what is shared with it.
    CONTACT = 2
    #: A device of the same owner.
    MEMBER = 3

    def permits(self, audience: Standing) -> bool:
        """Whether a device of this standing may do what is for `audience`."""
        return self >= audience
