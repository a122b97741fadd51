"""A data directory that an earlier version has made opens as it was."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from support.nodes import OPTIONS

from ainet.client.client import NodeClient
from ainet.client.shared_variables import close_all, open_shared
from ainet.daemon import daemon

#: Made by version 0.1.0 on a device named desk: a swarm with phone, a contact friend, a notebook shared and one opened.
OLD = Path(__file__).parents[1] / "golden" / "data-directory-0.1.0.tar.xz"
ID = "qh6wcxarngiv75i4"


@pytest.fixture
def old(tmp_path, jupyter_dirs):
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    daemon.up(tmp_path / "desk", OPTIONS)
    yield tmp_path / "desk"
    daemon.down(tmp_path / "desk")


def test_a_data_directory_of_the_first_version_is_as_it_was_left(old):
    with NodeClient.running(old) as node:
        own = node.status().node
        assert (own.name, own.id[: len(ID)]) == ("desk", ID)
        assert {member.name for member in node.members()} == {"desk", "phone"}
        assert [contact.name for contact in node.contacts()] == ["friend"]
        assert node.settings() == {"model": "smollm2"}
        notebooks = {found.name: (found.own, found.path) for found in node.notebooks()}
        assert notebooks == {"desk": (True, "desk.ipynb"), "friend": (False, "friend.ipynb")}
        (phone,) = [peer for peer in node.peers() if peer.name == "phone"]
        assert phone.device.memory == 2_000_000_000
        assert [model.name for model in phone.models] == ["smollm2"]
    assert "from friend" in (old / "notebooks" / "friend.ipynb").read_text()
    try:
        assert open_shared(old, "plan", "dict").to_py() == {"colour": "blue"}
        assert open_shared(old, "list", "list").to_py() == [1, "two"]
    finally:
        close_all()
