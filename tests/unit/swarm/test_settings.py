"""Settings of a swarm: set on one member, followed by all."""

from __future__ import annotations

import pytest
from pycrdt import Map
from support.documents import sharing
from support.swarms import devices, until

from ainet.api.answers import Answers
from ainet.errors import UsageError
from ainet.swarm.settings import MAX_VALUE, SwarmSettings


async def test_a_setting_is_one_for_all_members(tmp_path):
    async with devices(tmp_path, "desk", "phone") as both, sharing(*both) as shares:
        desk, phone = (SwarmSettings(documents, Answers()) for documents in shares)
        desk.set("model", "smollm2")
        await until(lambda: phone.get("model") == "smollm2")
        phone.set("model", "other")
        await until(lambda: desk.all() == {"model": "other"})
        desk.set("model", None)
        desk.set("model", None)
        await until(lambda: phone.all() == {})


async def test_what_makes_no_sense_is_refused_and_not_believed(tmp_path):
    async with devices(tmp_path, "desk") as (desk,), sharing(desk) as (documents,):
        settings = SwarmSettings(documents, Answers())
        with pytest.raises(UsageError, match="no setting 'colour'"):
            settings.set("colour", "red")
        for value in ("", "x" * (MAX_VALUE + 1)):
            with pytest.raises(UsageError, match="1 to 1000 characters"):
                settings.set("model", value)
        for value in (7, "", "x" * (MAX_VALUE + 1), ["smollm2"]):
            documents.open("settings").doc.get("dict", type=Map)["model"] = value
            assert settings.get("model") is None
