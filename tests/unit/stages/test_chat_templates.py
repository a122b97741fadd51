"""Chat templates: what the templates of common models use works as in transformers, and nothing gets out of hand."""

from __future__ import annotations

from datetime import datetime

import pytest
from support.chat_templates import GEMMA_3, GRANITE, LLAMA_3, PHI_3, QWEN_2, QWEN_3, SMOLLM_3

from ainet.errors import ModelError, UsageError
from ainet.stages.llama.chat_template import ChatTemplate

ASK = [{"role": "user", "content": " Hi "}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    {"role": "user", "content": "Bye"},
]
YEAR = str(datetime.now().astimezone().year)


def render(template, messages=ASK):
    return ChatTemplate(template).render(messages, bos="<s>", eos="</s>")


def test_llama_3_style():
    assert render(LLAMA_3) == f"<s><|head|>system\nYear: {YEAR}\n<|eot|><|head|>user\nHi<|eot|><|head|>assistant\n"
    assert "Be brief.<|eot|><|head|>user\nHi<|eot|>" in render(LLAMA_3, TALK)


def test_qwen_2_style():
    assert render(QWEN_2) == "<|im|>user\n Hi <|end|>\n<|im|>assistant\n"
    assert render(QWEN_2, TALK).startswith("<|im|>system\nBe brief.<|end|>\n<|im|>user\nHi<|end|>\n<|im|>assistant\n")


def test_qwen_3_style():
    assert render(QWEN_3, TALK) == "[system|Be brief.][user|Hi][assistant|Hello][user|Bye][assistant|"


def test_gemma_3_style():
    assert render(GEMMA_3, TALK[:2]) == "<s><turn>user\nBe brief.\n\nHi</turn>\n<turn>model\n"
    with pytest.raises(UsageError, match="template refuses this conversation: roles must alternate"):
        render(GEMMA_3, [*ASK, *ASK])


def test_phi_3_style():
    assert render(PHI_3).split() == ["<|user|>", "Hi", "<|end|>", "<|assistant|>"]
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"  # trim_blocks and lstrip_blocks


def test_granite_style():
    text = render(GRANITE)
    assert text.startswith(f"<r>system</r>Today is {datetime.now().astimezone():%B}")
    assert text.endswith("<r>user</r> Hi <eot>\n<r>assistant</r>")


def test_smollm_3_style():
    assert render(SMOLLM_3) == f"Year {YEAR} Mode /think Default.[u] Hi [a]"
    text = f"Year {YEAR} Mode /think Be brief.[u]Hi[a]<think>\nhm\n</think>\n\nHello[u]Bye[a]"
    assert render(SMOLLM_3, TALK) == text


def test_json_is_that_of_python():
    assert render("{{ ['é', '<', {'b': 1, 'a': none}] | tojson }}") == '["é", "<", {"b": 1, "a": null}]'
    assert render("{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=true, sort_keys=true) }}") == '{"a": "\\u00e9", "b": 1}'
    assert render("{{ {'b': [1]} | tojson(indent=1) }}") == '{\n "b": [\n  1\n ]\n}'
    assert render("{{ [1, 2] | tojson(separators=(',', ':')) }}") == "[1,2]"


def test_undefined_names_print_nothing_and_loops_may_break():
    assert (
        render("[{{ nothing }}]{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "[]01"
    )


def test_a_template_cannot_reach_python():
    for template in (
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ messages.append(1) }}",
    ):
        with pytest.raises(ModelError, match="does not accept this conversation"):
            render(template)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 'a' + 1 }}", "TypeError: can only concatenate"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[9].content }}", "has no element 9"),
        ("{{ strftime_now() }}", "TypeError: .*missing 1 required"),
        ("{{ [1, 'a'] | sort }}", "TypeError: '<' not supported"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{{ nothing.content }}", "'nothing' is undefined"),
        ("{{ [1].index(2) }}", "ValueError"),
    ],
)
def test_whatever_a_template_raises_is_said_in_words(template, words):
    with pytest.raises(ModelError, match=f"does not accept this conversation: .*{words}"):
        render(template)


@pytest.mark.parametrize("template", ["{% if %}", "{% for x in %}", "{{", "{% nonsense %}", "{{ " + "(" * 3000])
def test_what_is_not_jinja_is_refused(template):
    with pytest.raises(ModelError, match="chat template cannot be read"):
        ChatTemplate(template)


LOOPS = (
    "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% for c in r %}BODY{% endfor %}{% endfor %}{% endfor %}"
)
DOUBLING = "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (LOOPS.replace("BODY", ""), "more than 200000 steps"),
        (LOOPS.replace("BODY", "x" * 100), "more than 4194304 characters"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "200000 steps"),
        ("{{ 'x' * 10 ** 10 }}", "more than 4194304 characters"),
        ("{{ 9 ** (9 ** 9) }}", "more than 4096 bits"),
        ("{{ ([1] * 10 ** 10) | length }}", "more than 4194304 characters"),
        (DOUBLING.replace("OP", "+"), "more than 4194304 characters"),
        (DOUBLING.replace("OP", "~"), "more than 4194304 characters"),
        ("{% set x %}xx{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60, "more than 16777216 characters"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
    ],
)
def test_a_template_that_gets_out_of_hand_is_stopped(template, words):
    with pytest.raises(ModelError, match=words):
        render(template)


def test_a_stopped_template_works_again():
    template = ChatTemplate("{% for m in messages %}{% for i in range(9000) %}{% endfor %}{% endfor %}ok")
    for _ in range(3):
        with pytest.raises(ModelError, match="steps"):
            template.render(ASK * 30, bos="", eos="")
        assert template.render(ASK * 20, bos="", eos="") == "ok"


def test_the_largest_prompt_fits():
    text = "x" * 4_000_000
    template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}"
    assert render(template, [{"role": "user", "content": text}]) == f"<user>{text}<end>"
