"""A model is asked with what its maker put beside it, also from a member's device."""

from __future__ import annotations

import json

import pytest
from support.local_nodes import ask, nodes
from support.ollama_store import ollama

from ainet.api.generate import Message
from ainet.api.models import models

TEMPLATE = "{{ .System }} Q: {{ .Prompt }} A:{{ .Response }}"
PARAMETERS = {"temperature": 0, "num_predict": 5, "stop": ["\n"]}


@pytest.fixture
def store(tmp_path, smollm2_path, monkeypatch):
    """Ollama's store, with two tags of one file."""
    home = tmp_path / "ollama"
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(home))
    own = {"template": TEMPLATE, "system": "Be brief.", "params": json.dumps(PARAMETERS), "projector": "x"}
    for tag, layers in (("latest", {}), ("tuned", own)):
        ollama(home, f"registry.ollama.ai/library/small/{tag}", smollm2_path, **layers)
    return home


async def test_template_instructions_and_parameters_of_a_tag_are_used(tmp_path, store):
    async with nodes(tmp_path, desk={}) as found:
        desk = found["desk"]
        tuned = await ask(desk, text="Name a colour.", model="small:tuned", max_tokens=None, temperature=None)
        assert tuned.timings.generated_tokens <= 5
        assert tuned.notes == ["its projector is not used: it reads text, no images"]
        plain = await ask(
            desk, text="Be brief. Q: Name a colour. A:", model="small", raw=True, max_tokens=5, stop=["\n"]
        )
        assert (tuned.text, tuned.timings.prompt_tokens) == (plain.text, plain.timings.prompt_tokens)
        assert plain.notes == []
        # What the request says counts more.
        own = [Message("system", "Be long."), Message("user", "Name a colour.")]
        other = await ask(desk, text=own, model="small:tuned", max_tokens=2)
        raw = await ask(desk, text="Be long. Q: Name a colour. A:", model="small", raw=True, max_tokens=2)
        assert (other.text, other.timings.prompt_tokens) == (raw.text, raw.timings.prompt_tokens)


async def test_a_member_without_the_store_asks_in_the_same_way(tmp_path, store, monkeypatch):
    async with nodes(tmp_path, desk={}, attic={"discover_models": False}) as found:
        here = await ask(found["desk"], text="Name a colour.", model="small:tuned", max_tokens=None, temperature=None)
        there = await ask(found["attic"], text="Name a colour.", model="small:tuned", max_tokens=None, temperature=None)
        assert (there.text, there.timings.prompt_tokens) == (here.text, here.timings.prompt_tokens)
        [entry] = await found["attic"].call(models, "small:tuned")
        assert entry.settings.system == "Be brief."
        assert entry.members == ["desk"]
