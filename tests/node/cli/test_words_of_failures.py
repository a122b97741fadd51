"""What is no UTF-8, a terminal without letters, a proxy, a wrong address: all have words."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.nodes import OPTIONS, ainet

from ainet.client.client import NodeClient
from ainet.daemon import daemon
from ainet.errors import AinetError

COMMAND = [os.fsencode(sys.executable), b"-m", b"ainet"]


def raw(arguments, node_dir, **given):
    environment = os.environ | {"AINET_DATA_DIR": str(node_dir)} | given.pop("env", {})
    command = [*COMMAND, *arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=120, env=environment, **given)


@pytest.mark.parametrize(
    "arguments",
    [
        [b"ask", b"caf\xe9"],
        [b"ask", b"--system", b"caf\xe9", b"hi"],
        [b"ask", b"--stop", b"caf\xe9", b"hi"],
        [b"ask", b"--model", b"caf\xe9", b"hi"],
        [b"plan", b"caf\xe9"],
        [b"models", b"caf\xe9"],
        [b"remove", b"caf\xe9"],
    ],
)
def test_bytes_that_are_no_text_in_an_argument(node_dir, arguments):
    done = raw(arguments, node_dir)
    words = done.stderr.decode()
    assert done.returncode in (1, 2)
    assert words.startswith("ainet: ")
    assert "Traceback" not in words
    assert len(words.splitlines()) <= 2


def test_bytes_that_are_no_text_on_standard_input(node_dir):
    done = raw([b"ask", b"--max-tokens", b"1"], node_dir, input=b"caf\xe9")
    assert done.returncode == 2
    assert b"Standard input is not UTF-8 text: byte 0xe9 at position 3" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_letters_shows_replacements(node_dir, encoding):
    for arguments in ([b"ask", b"--help"], [b"status"], [b"models"], [b"models", b"smollm2"]):
        done = raw(arguments, node_dir, env={"PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, b"")
    grammar = 'root ::= "\N{GRINNING FACE} na\xefve \u20ac"'
    (node_dir.parent / "emoji.gbnf").write_text(grammar, encoding="utf-8-sig")
    path = os.fsencode(node_dir.parent / "emoji.gbnf")
    done = raw([b"ask", b"--grammar", path, b"hi"], node_dir, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).strip() == ("? na\xefve ?" if encoding == "latin-1" else "? na?ve ?")


def test_escapes_in_a_shell(node_dir):
    whole = raw([b"ask", b"--temperature", b"0", b"--json", b"List three colours, one on each line."], node_dir)
    text = json.loads(whole.stdout)["text"]
    assert "\n" in text
    stopped = raw(
        [b"ask", b"--temperature", b"0", b"--json", b"--stop", rb"\n", b"List three colours, one on each line."],
        node_dir,
    )
    assert json.loads(stopped.stdout)["text"] == text.partition("\n")[0]


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5h://127.0.0.1:9", "nonsense://x"])
def test_a_proxy_in_the_environment(tmp_path, jupyter_dirs, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    daemon.up(tmp_path / "node", {"name": "behind", **OPTIONS})
    try:
        assert ainet("ask", "--max-tokens", "1", "hi", data_dir=tmp_path / "node").returncode == 0
        done = ainet("ask", "--model", "hf:org/repo/file.gguf", "hi", data_dir=tmp_path / "node")
        assert done.returncode == 1
        assert "file.gguf in org/repo cannot be fetched from the Hub" in done.stderr
        assert "Traceback" not in (tmp_path / "node" / "logs" / "node.log").read_text()
        kept = [path for path in (tmp_path / "node").iterdir() if path.is_file()]
        assert {oct(path.stat().st_mode & 0o777) for path in kept} == {"0o600"}
    finally:
        daemon.down(tmp_path / "node")


def test_a_wrong_base_url_is_named(node_dir, tmp_path):
    running = json.loads((node_dir / "node.json").read_text())
    with NodeClient(f"{running['url']}wrong/", running["token"]) as client:
        for ask in (client.status, lambda: client.ask("hi")):
            with pytest.raises(AinetError) as refused:
                ask()
            assert f"{running['url']}wrong/ainet/api/" in refused.value.message
            assert "no node answers there, or one with another base URL" in refused.value.message
            assert running["token"] not in refused.value.message
