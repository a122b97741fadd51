"""Nodes in a Jupyter server, reduced to what is between devices."""

from __future__ import annotations

import logging

from ainet.documents.exchange import SIZES, Documents
from ainet.identity.identity import Identity
from ainet.links.links import Links
from ainet.pairing.pairing import Pairing
from ainet.timing import TIMING
from support.linked import Peer
from support.servers import NodeDouble


class LinkedNode(NodeDouble):
    """A node reduced to what is between devices."""

    timing = TIMING

    async def start(self):
        self.folder = self.config.make_data_dir()
        name = self.folder.parent.name
        self.log = logging.getLogger(f"ainet.tests.{name}")
        self.identity = Identity.open(self.folder, name)
        self.links = Links(self.identity, self.config, self.log, timing=self.timing)
        self.id = self.identity.id
        self.pairing = Pairing(self.identity, self.links, self.log)
        await self.links.start()
        Peer(self)

    async def stop(self):
        await self.pairing.stop()
        await self.links.stop()


class SharingNode(LinkedNode):
    """A node that shares documents."""

    sizes = SIZES

    async def start(self):
        await super().start()
        self.documents = Documents(self.links, self.folder / "documents.sqlite", self.log, sizes=self.sizes)

    async def stop(self):
        await self.documents.stop()
        await super().stop()
