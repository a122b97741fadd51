"""The devices of the owner, and what they agree on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import UNSET, UnsetType

from ainet.api.limits import Address, Text
from ainet.api.verb import LONG, Nothing, Option, Verb
from ainet.errors import UsageError

MAX_MINUTES = 24 * 60

Lan = Annotated[bool, Option("do what `ainet up --lan` does, now and at each start")]
OwnName = Annotated[Text | None, Option("name of this device in the swarm")]


@dataclass(frozen=True)
class MemberState:
    """A member, as this node sees it.

    Attributes
    ----------
    last_seen
        Unix seconds; None when it was never reachable from here.
    certificate_days
        Days until its certificate expires; negative after that.
    holds_ca
        Whether it can issue certificates.
    """

    id: str
    name: str
    addresses: list[str]
    connected: bool
    last_seen: float | None
    certificate_days: float
    is_self: bool
    holds_ca: bool


@dataclass(frozen=True)
class Device:
    """A device and what its owner lets it give.

    Attributes
    ----------
    version
        Of its ainet.
    memory, disk, threads, gpu
        The owner's caps: bytes, bytes, threads, whether a GPU may be used.
    speed
        Bytes of weights that one thread reads in a second, measured.
    """

    version: str
    memory: int
    disk: int
    threads: int
    gpu: bool
    speed: float


@dataclass(frozen=True)
class HeldModel:
    """A model that is on the device; `digest` is None until its file was read whole."""

    name: str
    digest: str | None
    size: int | None
    layers: int | None


@dataclass(frozen=True)
class HeldStage:
    """Layers (0-based, inclusive) that are loaded on the device."""

    model: str
    first_layer: int
    last_layer: int


@dataclass(frozen=True)
class Load:
    """The load of a device: reserved bytes, rounded to a tenth of the cap, so that small changes are not told."""

    memory: int


@dataclass(frozen=True)
class Gift:
    """A member's gift to the others, within its owner's caps.

    Attributes
    ----------
    memory
        Bytes, all that is given together.
    threads
        Most that are used.
    gpu
        Whether a GPU is given, too.
    """

    memory: int
    threads: int
    gpu: bool = False


@dataclass(frozen=True)
class LayersThere:
    """Layers (0-based, inclusive) in the process `pid` on the node with this id."""

    node: str
    pid: int
    first_layer: int
    last_layer: int


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline that a member has loaded.

    Attributes
    ----------
    model, name
        Digest and name of the model.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    seconds
        Predicted time of a token.
    stages
        The places of the layers, in order.
    """

    model: str
    name: str
    n_ctx: int
    n_ubatch: int
    seconds: float
    stages: list[LayersThere]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another device: how it is reached, and what a member tells of itself.

    Attributes
    ----------
    kind
        A member of the swarm, a contact (another owner's device), or a stranger on the local network.
    reached, path
        The kind of the way to it, and the way itself, in words.
    latency_s, bandwidth
        Seconds there and back; bytes a second.
    last_seen
        Unix seconds; None when it was never reachable from here.
    note
        Of strangers only: what it is to this swarm, in words.
    device, models, stages, load
        Of members only: what it is and holds; None when it has not told, or cannot be reached.
    offers
        Of members only: what it gives to the others, by kind.
    pipelines
        Of members only: what it has loaded, by the pipeline's name.
    """

    id: str
    name: str
    kind: Literal["member", "contact", "stranger"]
    reached: Literal["direct", "relayed", "no"]
    path: str | None = None
    latency_s: float | None = None
    bandwidth: float | None = None
    last_seen: float | None = None
    addresses: list[str]
    note: str | UnsetType = UNSET
    device: Device | UnsetType | None = UNSET
    models: list[HeldModel] | UnsetType | None = UNSET
    stages: list[HeldStage] | UnsetType | None = UNSET
    load: Load | UnsetType | None = UNSET
    offers: dict[str, Gift] | UnsetType = UNSET
    pipelines: dict[str, LoadedPipeline] | UnsetType | None = UNSET


@dataclass(frozen=True)
class InviteRequest:
    """The place to wait for the other device (host or host:port), for how long, and whether on the local networks."""

    listen: Annotated[
        Text | None, Option("where to wait for the other device (default: 127.0.0.1)", metavar="ADDR")
    ] = None
    lan: Lan = field(default=False, kw_only=True)
    minutes: Annotated[float, Option("how long (default: 10)", metavar="N")] = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= MAX_MINUTES:
            raise UsageError(
                f"minutes is {self.minutes:g}; a ticket is valid for more than 0 and at most {MAX_MINUTES} minutes."
            )


@dataclass(frozen=True)
class Invitation:
    """A new ticket, where it is waited for (``host:port``), and until when (Unix seconds).

    `warning` says so when the joiner, though it may join from elsewhere, could not reach this node as a member.
    """

    ticket: str
    address: str
    expires: float
    warning: str | None


@dataclass(frozen=True)
class JoinRequest:
    """A ticket, and the name that this device wants to have in the swarm."""

    ticket: Annotated[Text, Option("what `ainet invite` printed on the other device", metavar="TICKET")]
    name: OwnName = None
    lan: Lan = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Joined:
    """The swarm that this device joined, its name there, and all members.

    `warning` says so when the inviting device cannot be reached as a member yet.
    """

    swarm: str
    name: str
    warning: str | None
    members: list[MemberState]


@dataclass(frozen=True)
class RemoveRequest:
    """Which member to remove."""

    name: Annotated[Text, Option("name or node id of the member", metavar="NAME")]


@dataclass(frozen=True)
class Certificate:
    """A certificate: its serial number (hex) and when it expires (Unix seconds)."""

    serial: str
    expires: float


@dataclass(frozen=True)
class Removed:
    """A device that was removed, with the certificates of it that nobody accepts any more.

    Attributes
    ----------
    when
        Unix seconds.
    holds_ca
        Whether it keeps a copy of the swarm's key.
    version
        The number of times that it was admitted and removed.
    """

    id: str
    name: str
    when: float
    certificates: list[Certificate]
    holds_ca: bool
    version: int


@dataclass(frozen=True)
class ConnectRequest:
    """The address of a member."""

    address: Annotated[Address, Option("host:port, or the https:// address of a Jupyter server", metavar="ADDRESS")]


@dataclass(frozen=True)
class Connected:
    """The member that listens there, and the way to it, in words."""

    id: str
    name: str
    path: str


@dataclass(frozen=True)
class SettingRequest:
    """A setting for all members; None takes it back."""

    key: Annotated[Text, Option("model: the model that is used when none is named", metavar="KEY")]
    value: Annotated[str | None, Option("its new value", metavar="VALUE")] = None


members = Verb("members", "list the swarm's members", "GET", "members", Nothing, list[MemberState])
peers = Verb("peers", "show who is there, how each is reached, and what it has", "GET", "peers", Nothing, list[Peer])
connect = Verb("connect", "connect to a member at an address", "POST", "links", ConnectRequest, Connected)
invite = Verb("invite", "make a ticket for a further device", "POST", "invitations", InviteRequest, Invitation)
join = Verb("join", "join the swarm of a ticket", "POST", "membership", JoinRequest, Joined, LONG)
remove = Verb("remove", "remove a member from the swarm", "DELETE", "members/{name}", RemoveRequest, Removed, LONG)
settings = Verb("settings", "show what all members share", "GET", "settings", Nothing, dict[str, str])
set_setting = Verb("set_setting", "change it for all of them", "POST", "settings", SettingRequest, dict[str, str])
