from __future__ import annotations

import json
import logging
import os
import stat

import httpx
import pytest
from support.servers import JUPYTER_TOKEN, NodeDouble, serve

from ainet.daemon import runtime
from ainet.errors import NotEnough

AS_USER = {"Authorization": f"token {JUPYTER_TOKEN}"}


pytestmark = pytest.mark.usefixtures("own_jupyter")


async def test_the_server_is_the_node_while_it_runs(tmp_path):
    async with serve(tmp_path) as served:
        found = served.runtime
        assert found.pid == os.getpid()
        assert not found.headless
        assert os.environ["AINET_DATA_DIR"] == str(served.data_dir)
        for name, mode in [("node.json", 0o600), ("node.lock", 0o600), (".", 0o700), ("logs/node.log", 0o600)]:
            assert stat.S_IMODE((served.data_dir / name).stat().st_mode) == mode, name
        node = served.node
    assert node.stopped
    assert runtime.find(served.data_dir) is None
    assert not runtime.is_locked(served.data_dir)


async def test_a_second_server_leaves_the_first_one_the_node(tmp_path, caplog):
    async with serve(tmp_path / "1") as first:
        before = first.runtime
        async with serve(tmp_path / "2", data_dir=first.data_dir) as second, httpx.AsyncClient(trust_env=False) as http:
            assert second.extension.served.node is None
            answer = await http.get(f"{second.url}ainet/api/status", headers=AS_USER)
            assert answer.status_code == 409
            assert f"(process {os.getpid()}, {before.url}) is already the node" in answer.json()["message"]
            # The Jupyter server itself works.
            answer = await http.get(f"{second.url}api/status", headers=AS_USER)
            assert answer.status_code == 200
        assert first.runtime == before
        assert first.node is not None


async def test_a_node_that_cannot_start_does_not_stop_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(NodeDouble, "start_error", NotEnough("2 GB are wanted, 1 GB is allowed."))
    async with serve(tmp_path) as served, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{served.url}ainet/api/status", headers=AS_USER)
        assert answer.status_code == 503
        assert answer.json()["message"] == "The node did not start: 2 GB are wanted, 1 GB is allowed."
        assert not runtime.is_locked(served.data_dir)


async def test_settings_come_from_jupyter_then_the_data_directory(tmp_path):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "ainet_config.json").write_text(json.dumps({"AinetConfig": {"memory": "3GB", "name": "from-file"}}))
    async with serve(tmp_path) as served:
        assert served.node.config.memory == "3GB"
        assert served.node.config.name == "from-file"
        assert served.node.config.data_dir == str(data_dir)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not a JSON configuration"),
        ('{"AinetConfig": {"memory": "much"}}', "'much' is not a size"),
        ('{"AinetConfig": {"threads": "two"}}', "threads"),
    ],
)
async def test_a_wrong_setting_is_named(tmp_path, text, words):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "ainet_config.json").write_text(text)
    async with serve(tmp_path) as served:
        assert words in served.extension.served.failure.message


async def test_a_server_elsewhere_is_reached_on_the_loopback_interface(tmp_path):
    given = {"ip": "127.0.0.2", "base_url": "/user/anna/"}
    async with serve(tmp_path, **given) as served, httpx.AsyncClient(trust_env=False) as http:
        url = served.runtime.url
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/user/anna/")
        answer = await http.get(f"{url}ainet/api/status", headers=served.headers)
        assert answer.json()["node"]["name"] == "double"


async def test_the_log_has_no_token(tmp_path):
    async with serve(tmp_path) as served, httpx.AsyncClient(trust_env=False) as http:
        await http.get(f"{served.url}ainet/api/status", headers=served.headers)
        await http.get(f"{served.url}ainet/api/status", params={"token": "wrong-token"})
        served.extension.log.info("a word of the node")
        token = served.runtime.token
        log = (served.data_dir / "logs" / "node.log").read_text()
    assert "a word of the node" in log
    assert token not in log
    assert JUPYTER_TOKEN not in log


async def test_a_closed_log_is_let_go(tmp_path):
    async with serve(tmp_path) as served:
        logger = served.extension.log
    assert not any(isinstance(handler, logging.FileHandler) for handler in logger.handlers)
