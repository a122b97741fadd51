from __future__ import annotations

import json

import httpx
import pytest
from support.servers import JUPYTER_TOKEN, serve, until

from ainet.errors import Busy, CannotSplit, StageLost
from ainet.server.base import MAX_BODY, MAX_DROPPED
from ainet.server.model_api.handlers import PREFIX
from ainet.server.model_api.handlers import routes as model_routes
from ainet.server.verbs import routes

#: The one route without a login: whoever comes in proves itself inside (tests/node/links/test_websocket_links.py).
OPEN_ROUTE = "/ainet/peer"
#: A WebSocket (tests/node/server/test_sync_route.py): it refuses in the Jupyter server's own way.
SYNC_ROUTE = "/ainet/api/sync/(.+)"
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
AS_USER = {"Authorization": f"token {JUPYTER_TOKEN}"}
QUESTION = {"messages": [{"role": "user", "content": "hi"}]}


pytestmark = pytest.mark.usefixtures("own_jupyter")


@pytest.fixture
async def served(tmp_path):
    async with serve(tmp_path) as found:
        yield found


@pytest.fixture
async def http(served):
    async with httpx.AsyncClient(base_url=f"{served.url}ainet/api/", trust_env=False, headers=served.headers) as client:
        yield client


def routes_of(app) -> list[str]:
    """Return the paths of all routes that the extension registered."""

    def walk(router):
        for rule in router.rules:
            target = getattr(rule.target, "rules", None)
            if target is not None:
                yield from walk(rule.target)
            elif getattr(rule.target, "__module__", "").startswith("ainet"):
                yield rule.matcher.regex.pattern

    patterns = set(walk(app.web_app.default_router))
    return [
        pattern.rstrip("$").replace("([^/]+)", "anything").replace("models/(.+)", "models/x") for pattern in patterns
    ]


@pytest.mark.parametrize("allow_unauthenticated_access", [False, True])
@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": "token"}},
        {"params": {"token": "wrong"}},
        {"headers": {"Cookie": "username-127-0-0-1-8888=forged; _xsrf=2|x|y|1"}},
    ],
    ids=["none", "wrong-bearer", "empty", "wrong-query", "forged-cookie"],
)
async def test_no_route_answers_without_a_token(tmp_path, allow_unauthenticated_access, credentials):
    async with (
        serve(tmp_path, allow_unauthenticated_access=allow_unauthenticated_access) as served,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        paths = routes_of(served.app)
        assert OPEN_ROUTE in paths
        assert len(paths) == len(routes()) + len(model_routes()) + 2
        paths.remove(OPEN_ROUTE)
        for path in paths:
            for verb in ("GET",) if path == SYNC_ROUTE else VERBS:
                answer = await http.request(verb, served.url.rstrip("/") + path, **credentials)
                assert answer.status_code in {401, 403}, (verb, path)
                assert "double" not in answer.text
                if verb != "HEAD" and path.startswith(PREFIX):
                    assert answer.json()["error"]["code"] == "invalid_api_key", (verb, path)
                elif verb != "HEAD" and path != SYNC_ROUTE:
                    assert answer.json()["code"] == "refused", (verb, path)
        assert not served.node.calls
        assert not served.node.requests


async def test_the_nodes_token_is_not_accepted_in_an_address(served, http):
    del http.headers["Authorization"]
    answer = await http.get("status", params={"token": served.runtime.token})
    assert answer.status_code == 403


async def test_the_nodes_token_opens_the_nodes_routes_only(served, http):
    assert (await http.get("status")).json()["node"]["url"] == served.runtime.url
    assert (await http.get(f"{served.url}api/contents")).status_code == 403
    assert JUPYTER_TOKEN not in (served.data_dir / "node.json").read_text()


async def test_whoever_is_logged_in_to_jupyter_may_use_the_node(http):
    answer = await http.get("status", headers=AS_USER)
    assert answer.status_code == 200


async def test_a_page_of_another_origin_cannot_use_the_login_cookie(served, http):
    login = await http.get(f"{served.url}api/status", headers=AS_USER)
    cookies = {name: value for name, value in login.cookies.items() if name.startswith("username")}
    assert cookies
    del http.headers["Authorization"]
    http.cookies.update(cookies)
    answer = await http.request("DELETE", "pipelines", headers={"Origin": "http://evil.example"})
    assert answer.status_code in {403, 404}
    assert not served.node.calls


async def test_a_foreign_host_name_is_refused(http):
    answer = await http.get("status", headers={"Host": "evil.example"})
    assert answer.status_code == 403


async def test_wrong_verbs_are_named(served, http):
    for path in set(routes_of(served.app)) - {OPEN_ROUTE, SYNC_ROUTE}:
        answer = await http.put(served.url.rstrip("/") + path)
        assert answer.status_code == 405, path
        if path.startswith(PREFIX):
            assert answer.json()["error"]["message"] == "PUT is not possible here."
            continue
        assert answer.json() == {"code": "usage", "message": "PUT is not possible here.", "details": {}}


async def test_a_fixed_address_is_not_taken_for_a_name(served, http):
    await http.post("notebooks/open", json={"name": "plan"})
    assert served.node.calls == [("open_notebook", "plan", None)]


async def test_names_in_addresses_are_decoded(served, http):
    await http.delete("members/Anna%27s%20phone%2F2")
    await http.delete("pipelines/%2Fhome%2Fm.gguf")
    assert served.node.calls == [("remove", "Anna's phone/2"), ("unload", "/home/m.gguf")]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("generate", b"{", "truncated"),
        ("generate", b"\xff", "not understood"),
        ("generate", b"[]", "Expected `object`"),
        ("generate", b'{"messages": [], "modle": "x"}', "unknown field `modle`"),
        ("generate", b'{"messages": "hi"}', "`$.messages`"),
        ("membership", b"{}", "missing required field `ticket`"),
        ("invitations", b'{"minutes": "1"}', "`$.minutes`"),
    ],
)
async def test_a_body_that_is_not_understood_is_refused(served, http, path, body, words):
    answer = await http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "usage"
    assert words in answer.json()["message"]
    assert not served.node.requests


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("invitations", b'{"minutes": 0}', "minutes is 0; a ticket is valid for more than 0 and at most 1440 minutes."),
        ("invitations", b'{"listen": ""}', "listen has 0 characters; it must have 1 to 4096."),
        ("membership", b'{"ticket": "t", "name": ""}', "name has 0 characters; it must have 1 to 4096."),
        ("key/export", b'{"passphrase": ""}', "passphrase has 0 characters; it must have 1 to 4096."),
        ("key/import", b'{"key": "", "passphrase": "p"}', "key has 0 characters; it must have 1 to 65536."),
        ("clients", b'{"workers": 1000000}', "workers is 1000000; it must lie between 1 and 1024."),
    ],
)
async def test_a_value_beyond_its_limits_is_refused_in_words(served, http, path, body, words):
    answer = await http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json() == {"code": "usage", "message": words, "details": {}}
    assert not served.node.calls


async def test_a_query_that_is_not_understood_is_refused(served, http):
    answer = await http.get("plan", params={"model": "m", "stages": "many"})
    assert answer.status_code == 400
    assert "`$.stages`" in answer.json()["message"]
    answer = await http.get("plan", params={"model": "m", "stages": "5000"})
    assert answer.status_code == 400
    assert answer.json()["message"] == "stages is 5000; it must lie between 1 and 1024."
    assert (await http.get("plan", params={"model": "m", "stages": "3"})).json()["name"] == "m"
    assert served.node.calls == [("plan", "m", 3)]


async def test_a_body_over_the_limit_is_refused(served, http):
    answer = await http.post("generate", content=b"x" * (MAX_BODY + 1))
    assert answer.status_code == 413
    assert answer.json()["message"] == f"The request has {MAX_BODY + 1} bytes; at most {MAX_BODY} are accepted."
    assert not served.node.requests


async def post_without_end(http: httpx.AsyncClient) -> tuple[int | None, int]:
    """Post a body without a length; return the status, if there was one, and the bytes that were taken."""
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 4 * MAX_DROPPED:
            sent += 2**20
            yield bytes(2**20)

    try:
        return (await http.post("generate", content=endless())).status_code, sent
    except httpx.TransportError:
        return None, sent  # the server closed before it had read all


async def test_a_body_without_end_is_cut_off(served, http):
    status, sent = await post_without_end(http)
    assert status in {400, None}
    assert sent < 2 * MAX_DROPPED
    assert not served.node.requests


async def test_a_strangers_body_is_not_read(served, http):
    del http.headers["Authorization"]
    status, sent = await post_without_end(http)
    assert status in {403, None}
    assert sent < MAX_DROPPED


async def test_an_error_before_the_first_event_has_its_own_status(served, http):
    served.node.early_error = CannotSplit("not there", allowed=[1, 2])
    answer = await http.post("generate", json=QUESTION)
    assert answer.status_code == 422
    assert answer.json() == {"code": "cannot-split", "message": "not there", "details": {"allowed": [1, 2]}}
    assert served.node.generating == 0


async def test_busy_says_when_to_ask_again(served, http):
    served.node.early_error = Busy("Eight questions wait already.", retry_after=7)
    answer = await http.post("generate", json=QUESTION)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "7"
    assert answer.json()["message"] == "Eight questions wait already."


async def test_an_error_in_the_middle_is_the_last_line(served, http):
    served.node.late_error = StageLost("A worker died.")
    answer = await http.post("generate", json=QUESTION)
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert [event["event"] for event in events] == ["progress", "start", "text", "text", "text", "error"]
    assert events[-1]["error"] == {"code": "stage-lost", "message": "A worker died.", "details": {}}
    assert served.node.generating == 0


async def test_a_mistake_of_the_node_tells_no_details(served, http):
    answer = await http.get("models")
    assert answer.status_code == 500
    assert answer.json()["message"] == "The node made a mistake; its log says more (`ainet logs`)."
    served.node.late_error = RuntimeError("secret detail")
    answer = await http.post("generate", json=QUESTION)
    assert "secret detail" not in answer.text
    assert json.loads(answer.text.splitlines()[-1])["error"]["code"] == "failed"


async def test_events_arrive_while_they_happen(served, http):
    async with http.stream("POST", "generate", json=QUESTION) as answer:
        async for line in answer.aiter_lines():
            if json.loads(line)["event"] == "text":
                break
        assert served.node.generating == 1


async def test_a_client_that_goes_away_cancels_within_a_token(served, http):
    async with http.stream("POST", "generate", json=QUESTION) as answer:
        async for line in answer.aiter_lines():
            if json.loads(line)["event"] == "text":
                break
    words = served.node.words
    await until(lambda: served.node.generating == 0)
    # The words that were made before the closed connection could be seen here.
    assert served.node.words - words <= 5


async def test_news_arrive_while_they_happen_and_nobody_is_told_who_has_gone(served, http, monkeypatch):
    monkeypatch.setattr("ainet.server.watch.ALIVE", 0.1)
    async with http.stream("GET", "watch", params={"kinds": "links,members"}) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = answer.aiter_lines()
        told = [json.loads(await anext(lines)) for _ in range(3)]
        assert [one["links"]["changed"]["a"]["name"] for one in told] == ["0", "1", "2"]
        assert [await anext(lines) for _ in range(2)] == ["", ""]  # the node is there
        assert served.node.listening == 1
    await until(lambda: served.node.listening == 0)
    answer = await http.get("watch", params={"kinds": "weather"})
    assert (answer.status_code, answer.json()["message"]) == (400, "There is no news of 'weather'.")


async def test_stopping_the_server_ends_a_running_stream(tmp_path):
    async with serve(tmp_path) as served, httpx.AsyncClient(trust_env=False, headers=served.headers) as http:
        node = served.node
        async with http.stream("POST", f"{served.url}ainet/api/generate", json=QUESTION) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            await served.extension.stop_extension()
            assert node.stopped
            status = await http.get(f"{served.url}ainet/api/status", headers=AS_USER)
            assert status.status_code == 503
            assert status.json()["message"] == "The node has stopped."
    assert not (served.data_dir / "node.json").exists()
