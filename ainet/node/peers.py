"""``ainet peers``: who is there, how each is reached, and what it has."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import msgspec

from ainet.api import swarm
from ainet.api.swarm import Device, Gift, HeldModel, HeldStage, Load, LoadedPipeline, Peer
from ainet.links.discovery import swarm_hash
from ainet.links.standing import Standing
from ainet.swarm.facts import CAPABILITIES, GIFTS

if TYPE_CHECKING:
    from ainet.api.answers import Answers
    from ainet.api.swarm import MemberState
    from ainet.executor.directory import PipelineDirectory
    from ainet.identity.contacts import Contact
    from ainet.links.bandwidths import Bandwidths
    from ainet.links.discovery import Sighting
    from ainet.links.links import Links
    from ainet.swarm.feeds import Feeds

#: A bandwidth counts for this long (s); then it is measured again when somebody asks.
REMEMBER_SECONDS = 60.0


class Peers:
    """Describes the other devices.

    Parameters
    ----------
    links, feeds, directory
        The ways to them, and their announcements.
    bandwidths
        The bandwidths of links.
    answers
        The registry of answers to the owner's verbs.
    """

    def __init__(
        self,
        links: Links,
        feeds: Feeds,
        directory: PipelineDirectory,
        bandwidths: Bandwidths,
        answers: Answers,
    ) -> None:
        self._links = links
        self._feeds = feeds
        self._directory = directory
        self._bandwidths = bandwidths
        answers.add(swarm.peers, self.all)

    async def all(self) -> list[Peer]:
        """Return all members but this one, then the contacts, then the strangers on the local network."""
        members = [state for state in self._links.members() if not state.is_self]
        found = await asyncio.gather(*(self._member(state) for state in members))
        contacts = [await self._contact(contact) for contact in self._links.identity.contacts.all()]
        known = {one.id for one in (*found, *contacts)}
        strangers = [self._stranger(one) for one in self._links.discovery.sightings() if one.id not in known]
        return [*found, *contacts, *strangers]

    def _stranger(self, seen: Sighting) -> Peer:
        is_ours = seen.swarm == swarm_hash(self._links.identity.swarm)
        return Peer(
            id=seen.id,
            name=seen.id[:8],
            kind="stranger",
            reached="no",
            last_seen=self._links.identity.now(),
            addresses=list(seen.addresses),
            note="not accepted as a member yet" if is_ours else "of another swarm",
        )

    async def _contact(self, contact: Contact) -> Peer:
        link = self._links.open_link(contact.id, Standing.CONTACT)
        return Peer(
            id=contact.id,
            name=contact.name,
            kind="contact",
            reached="direct" if link else "no",
            path=link.path if link else None,
            latency_s=link.latency if link else None,
            bandwidth=await self._bandwidths.measure(link, REMEMBER_SECONDS) if link else None,
            last_seen=self._links.identity.now() if link else self._links.book.last_seen(contact.id),
            addresses=self._links.known_addresses(contact.id),
        )

    async def _member(self, state: MemberState) -> Peer:
        link = self._links.open_link(state.id, Standing.MEMBER)
        known = Peer(
            id=state.id,
            name=state.name,
            kind="member",
            reached="no",
            last_seen=state.last_seen,
            addresses=state.addresses,
            device=self._feeds.get(state.id, CAPABILITIES, "device", Device),
            models=self._feeds.get(state.id, CAPABILITIES, "models", list[HeldModel]),
            stages=None,
            load=None,
            offers={},
            pipelines=None,
        )
        if link is None:
            return known  # what was loaded on a device that nobody reaches is no use to anybody
        gifts = {kind: self._feeds.get(state.id, GIFTS, kind, Gift) for kind in self._feeds.keys(state.id, GIFTS)}
        return dataclasses.replace(
            known,
            reached="direct" if link.relay is None else "relayed",
            path=link.path,
            latency_s=link.latency,
            bandwidth=await self._bandwidths.measure(link, REMEMBER_SECONDS),
            stages=self._feeds.get(state.id, CAPABILITIES, "stages", list[HeldStage]),
            load=self._feeds.get(state.id, CAPABILITIES, "load", Load),
            offers={kind: gift for kind, gift in gifts.items() if gift is not None},
            pipelines={
                name: msgspec.convert(one, LoadedPipeline, from_attributes=True)
                for name, one in self._directory.of(state.id)
            },
        )
