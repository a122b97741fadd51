"""Ollama's chat templates: what they use works as in Go, and nothing gets out of hand."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.errors import ModelError
from ainet.stages.llama.go_template import GoTemplate

ASK = [{"role": "user", "content": "Hi"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Bye"},
]

CHATML = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
LLAMA_3 = """{{- if .System }}<|head|>system

{{ .System }}<|eot|>{{- end }}
{{- range .Messages }}{{- if ne .Role "system" }}<|head|>{{ .Role }}

{{ .Content }}<|eot|>{{- end }}
{{- end }}<|head|>assistant

"""
QWEN = """{{- $lastUserIdx := -1 -}}
{{- range $idx, $msg := .Messages -}}
{{- if eq $msg.Role "user" }}{{ $lastUserIdx = $idx }}{{ end -}}
{{- end }}
{{- if or .System .Tools }}<|im_start|>system
{{ if .System }}{{ .System }}{{ end }}
{{- if .Tools }}tools {{ range .Tools }}{{ . | json }}{{ end }}{{ end -}}
<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}{{ if eq $i $lastUserIdx }} /think{{ end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}calls{{ end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""
MISTRAL = """{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}[INST] {{ if and (eq $index 1) $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}
{{- end }}"""


def render(template, messages):
    return GoTemplate(template).render(messages, bos="<s>", eos="</s>")


def test_a_template_of_single_turns():
    assert render(CHATML, ASK) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_without_a_place_for_the_answer():
    assert render("[INST] {{ .System }} {{ .Prompt }} [/INST]", TALK) == (
        "[INST] Be brief. Hi [/INST]Yes?[INST]  Bye [/INST]"
    )


def test_templates_of_conversations():
    assert render(LLAMA_3, TALK) == (
        "<|head|>system\n\nBe brief.<|eot|><|head|>user\n\nHi<|eot|><|head|>assistant\n\nYes?<|eot|>"
        "<|head|>user\n\nBye<|eot|><|head|>assistant\n\n"
    )
    assert render(QWEN, TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nBye /think<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(MISTRAL, TALK) == "[INST] Be brief.\n\nHi[/INST] Yes?</s>[INST] Bye[/INST]"


def test_neighbours_of_one_role_are_one_turn():
    assert render("{{ range .Messages }}[{{ .Content }}]{{ end }}", [*ASK, *ASK]) == "[Hi\n\nHi]"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{{ "a\\n\\"b" }}{{ `c\\n` }}', 'a\n"bc\\n'),
        ("a {{- /* words }} */ -}} b", "ab"),
        ("a {{/* words */}} b", "a  b"),
        ("{{ with .System }}[{{ . }}]{{ else }}none{{ end }}", "[S]"),
        ("{{ with .Nothing }}[{{ . }}]{{ else }}none{{ end }}", "none"),
        ("{{ range .Nothing }}x{{ else }}empty{{ end }}", "empty"),
        ("{{ range $i, $m := .Messages }}{{ if $i }}, {{ end }}{{ $i }}{{ $m.Role }}{{ end }}", "0system, 1user"),
        ("{{ range .Messages }}{{ if eq .Role `user` }}{{ break }}{{ end }}{{ .Role }}{{ end }}", "system"),
        ("{{ range .Messages }}{{ if eq .Role `system` }}{{ continue }}{{ end }}{{ .Role }}{{ end }}", "user"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}", "2"),
        ('{{ eq 1 2 1 }} {{ lt 1 2 }} {{ not true }} {{ and 1 "" }}|{{ or "" "b" }}', "true true false |b"),
        ('{{ len .Messages }} {{ (index .Messages 1).Content }} {{ printf "%s=%d" "a" 5 }}', "2 P a=5"),
        ('{{ .Prompt | printf "%q" }} {{ json (index .Messages 0) }}', '"P" {"Role":"system","Content":"S"}'),
        ("{{ $.System }}{{ range .Messages }}{{ $.Prompt }}{{ end }}", "SPP"),
        ("{{ .Nothing.At.All }}{{ nil }}", ""),
        ("{{ if false }}a{{ else if eq .System `S` }}b{{ else }}c{{ end }}", "b"),
    ],
)
def test_the_language_is_that_of_go(template, text):
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}]
    assert render(f"{{{{/* .Messages */}}}}{template}", messages) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ if .System }}x", "`if` has no `end`"),
        ("x{{ end }}", "unexpected 'end'"),
        ("{{ .System", "an action does not end"),
        ("{{ env `HOME` }}", "function `env` is not known"),
        ('{{ template "x" }}', "`template` is not known"),
        ("{{ }}", "an action is empty"),
        ("{{ eq (1 }}", "a bracket is not closed"),
        ("{{ if 1 }}" * 60 + "{{ end }}" * 60, "nested too deeply"),
        ("{{ $ := ! }}", "not understood"),
    ],
)
def test_what_is_no_template_is_said(template, words):
    with pytest.raises(ModelError, match=words):
        GoTemplate(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ range $.Messages }}{{ range $.Messages }}" * 6 + "x" + "{{ end }}{{ end }}" * 6,
        "{{ .Messages }}{{ index .Messages 99 }}",
        "{{/* .Messages */}}{{ lt 1 `a` }}",
        "{{ .Messages }}{{ $y }}",
        "{{ .Messages }}{{ $x = 1 }}",
        "{{ .Messages }}{{ eq }}",
    ],
)
def test_what_fails_ends_in_words(template):
    messages = [{"role": "user" if n % 2 else "assistant", "content": "x" * 100} for n in range(40)]
    with pytest.raises(ModelError, match="does not accept this conversation"):
        render(template, messages)


PIECES = [
    "{{ ",
    " }}",
    "{{- ",
    " -}}",
    "if ",
    "end",
    "else",
    "range ",
    ".System",
    ".Messages",
    "$x ",
    ":= ",
    "(",
    ")",
    "|",
    '"a"',
    "eq ",
    "x",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_whatever_the_template_it_ends_in_words_or_text(template):
    with contextlib.suppress(ModelError):
        assert isinstance(render(template, TALK), str)
