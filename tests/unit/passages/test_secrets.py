"""Secrets never become passages, whatever kind of file they are in."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest

from ainet.passages.parse import parse
from ainet.passages.secrets import LEFT_OUT, SUSPICIOUS, _detectors, is_secret

# Made up, and put together here, so that no scanner takes this file for a leak.
SECRETS = [
    "aws_id = AK" + "IAIOSFODNN7EXAMPLE",
    "aws_secret_key = '" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'",
    "token: gh" + "p_" + "a1B2" * 9,
    "use github_" + "pat_" + "a1B2c" * 12,
    "gl" + "pat-" + "a1B2c3D4e5F6g7H8i9J0",
    "HF = 'hf" + "_" + "aBcDeFgHiJ" * 3 + "abcd'",
    "xo" + "xb-123456789012-123456789012-abcdefabcdef",
    "https://hooks." + "slack.com/services/T000/B000/XXXX",
    "s" + "k_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "s" + "k-proj-" + "a1B2c3D4" * 5,
    "s" + "k-ant-" + "a1B2c3D4" * 5,
    "AI" + "za" + "a1B2c3D4e5F6g7H8i9J0a1B2c3D4e5F6g7H",
    "S" + "G." + "a" * 22 + "." + "b" * 43,
    "url = 'postgres://ada:" + "hunter2@db.local/x'",
    "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "pyp" + "i-AgEIcHlwaS5vcmc" + "a1" * 40,
    "bot 123456789" + ":" + "AAaaBBbbCCccDDddEEeeFFffGGggHHhhIIi",
    "AC" + "0123456789abcdef0123456789abcdef",
]
KEY = "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabcdefg\n-----END " + "RSA PRIVATE KEY-----"


@pytest.mark.parametrize("secret", SECRETS)
def test_a_line_with_a_secret_is_left_out_and_nothing_else(secret):
    for path, text in (
        ("a.txt", f"before\n{secret}\nafter"),
        ("a.py", f"before = 1\n# {secret}\nafter = 2"),
        ("a.md", f"before\n\n    {secret}\n\nafter"),
        (
            "a.ipynb",
            json.dumps({"cells": [{"cell_type": "code", "source": f"before\n{secret}\nafter", "outputs": []}]}),
        ),
    ):
        found = "\n".join(one.text for one in parse(path, text.encode()))
        assert LEFT_OUT in found, path
        assert "before" in found
        assert "after" in found
        assert secret[-12:].strip("'") not in found, path


def test_a_private_key_is_left_out_whole():
    (one,) = parse("a.txt", f"before\n{KEY}\nafter".encode())
    assert one.text.split("\n") == ["before", *[LEFT_OUT] * 4, "after"]


def test_what_people_write_about_secrets_stays():
    for line in (
        "password = getpass()", "The token is read from the environment.", "key = lambda row: row.name", "https://example.org:8080/a@b",
        "ssh-keygen -t ed25519", "asia, africa", "sk_learn", "-----BEGIN CERTIFICATE-----", "def private(): pass",
    ):  # fmt: skip
        assert not is_secret(line), line


def test_the_cheap_expression_lets_no_secret_of_the_standard_library_pass():
    flagged = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[::2]:
        for line in path.read_text().splitlines():
            if SUSPICIOUS.search(line) is None:
                assert not any(True for detector in _detectors() for _ in detector.analyze_string(line)), line
            flagged += is_secret(line)
    assert flagged < 10
