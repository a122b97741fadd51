"""``ainet peers``: who is there, how each is reached, and what it has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.links.discovery import swarm_hash
from ainet.links.standing import Standing
from ainet.swarm import offers
from ainet.swarm.facts import LOG, DeviceFacts, HeldModel, HeldStage, Load
from ainet.swarm.offers import Offer

if TYPE_CHECKING:
    from ainet.executor.directory import PipelineDirectory
    from ainet.identity.contacts import Contact
    from ainet.links.bandwidths import Bandwidths
    from ainet.links.links import Links
    from ainet.links.members import MemberState
    from ainet.swarm.feeds import Feeds

#: A bandwidth counts for this long (s); then it is measured again when somebody asks.
REMEMBER_SECONDS = 60.0


class Peers:
    """Describes the other devices.

    Parameters
    ----------
    links, feeds, directory
        How they are reached, and what they tell.
    bandwidths
        How fast links are.
    """

    def __init__(self, links: Links, feeds: Feeds, directory: PipelineDirectory, bandwidths: Bandwidths) -> None:
        self._links = links
        self._feeds = feeds
        self._directory = directory
        self._bandwidths = bandwidths

    async def describe(self) -> list[dict[str, Any]]:
        """Return all members but this one, then the contacts, then the strangers on the local network.

        Returns
        -------
        list of dict
            ``id``, ``name``, ``kind`` (``member``, ``contact``, ``stranger``), ``path``, ``reached`` (``direct``,
            ``relayed``, ``no``), ``latency_s`` (round trip), ``bandwidth`` (bytes a second), ``last_seen`` (Unix time),
            ``addresses``, and what a member tells of itself: ``device``, ``models``, ``stages``, ``load``,
            ``offers`` (by kind: memory, threads, gpu), ``pipelines`` (by name: model, context window, predicted seconds
            a token, stages).
        """
        members = [state for state in self._links.members() if not state.is_self]
        found = await asyncio.gather(*(self._member(state) for state in members))
        contacts = [await self._contact(contact) for contact in self._links.identity.contacts.all()]
        known = {one["id"] for one in (*found, *contacts)}
        mine = swarm_hash(self._links.identity.swarm)
        strangers = [
            {
                "id": one.id,
                "name": one.id[:8],
                "kind": "stranger",
                "reached": "no",
                "path": None,
                "latency_s": None,
                "bandwidth": None,
                "last_seen": self._links.identity.now(),
                "addresses": list(one.addresses),
                "note": "not accepted as a member yet" if one.swarm == mine else "of another swarm",
            }
            for one in self._links.discovery.sightings()
            if one.id not in known
        ]
        return [*found, *contacts, *strangers]

    async def _contact(self, contact: Contact) -> dict[str, Any]:
        link = self._links.open_link(contact.id, Standing.CONTACT)
        return {
            "id": contact.id,
            "name": contact.name,
            "kind": "contact",
            "reached": "direct" if link else "no",
            "path": link.path if link else None,
            "latency_s": link.latency if link else None,
            "bandwidth": await self._bandwidths.measure(link, REMEMBER_SECONDS) if link else None,
            "last_seen": self._links.identity.now() if link else self._links.book.last_seen(contact.id),
            "addresses": self._links.known_addresses(contact.id),
        }

    async def _member(self, state: MemberState) -> dict[str, Any]:
        link = self._links.open_link(state.id, Standing.MEMBER)
        told = {
            "device": self._feeds.get(state.id, LOG, "device", DeviceFacts),
            "models": self._feeds.get(state.id, LOG, "models", list[HeldModel]),
            # What was loaded on a device that nobody reaches is no use to anybody.
            "stages": self._feeds.get(state.id, LOG, "stages", list[HeldStage]) if link else None,
            "load": self._feeds.get(state.id, LOG, "load", Load) if link else None,
            "offers": {
                kind: offer
                for kind in (self._feeds.keys(state.id, offers.LOG) if link else ())
                if (offer := self._feeds.get(state.id, offers.LOG, kind, Offer)) is not None
            },
            "pipelines": dict(self._directory.of(state.id)) if link else None,
        }
        return {
            "id": state.id,
            "name": state.name,
            "kind": "member",
            "reached": "no" if link is None else "direct" if link.relay is None else "relayed",
            "path": link.path if link else None,
            "latency_s": link.latency if link else None,
            "bandwidth": await self._bandwidths.measure(link, REMEMBER_SECONDS) if link else None,
            "last_seen": state.last_seen,
            "addresses": state.addresses,
            **{name: msgspec.to_builtins(value) for name, value in told.items()},
        }
