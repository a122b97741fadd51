"""Who ran a cell last: the device and its user among members, never the user where another owner reads along."""

from __future__ import annotations

import re

import nbformat
import pytest
from support.desks import code, desks, shared
from support.servers import until

pytestmark = pytest.mark.usefixtures("own_jupyter")

LOGIN = "login-of-the-user"


@pytest.fixture(autouse=True)
def login(tmp_path, monkeypatch):  # the folder of a test is named after its user
    monkeypatch.setenv("LOGNAME", LOGIN)


async def run_and_read(desk, other):
    """Run a cell at the desk; return what the other one's file says of who ran it."""
    output = nbformat.v4.new_output("stream", text="hello")
    desk.write("plan.ipynb", code("a", "1"), code("b", "2", execution_count=7, outputs=[output]))
    await until(lambda: any(cell.get("outputs") for cell in other.read("plan.ipynb")), 15)
    not_run, ran = other.read("plan.ipynb")
    assert "ainet" not in not_run["metadata"]
    return ran["metadata"]["ainet"]


async def test_members_see_the_user(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        ran = await run_and_read(bob, ada)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", ran.pop("time"))
        assert ran == {"device": bob.node.name, "user": LOGIN}


async def test_a_member_that_is_named_sees_the_user(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        assert (await run_and_read(ada, bob))["user"] == LOGIN


@pytest.mark.parametrize("audience", [["bob"], ["swarm", "bob"]])
async def test_a_contact_does_not_see_the_users_login(tmp_path, audience):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=audience)
        assert (await run_and_read(ada, bob)).keys() == {"device", "time"}
        assert LOGIN not in str(bob.document("plan").doc.get_update())


async def test_a_contacts_own_login_stays_with_it(tmp_path):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        assert (await run_and_read(bob, ada)).keys() == {"device", "time"}
        assert LOGIN not in str(ada.document("plan").doc.get_update())
