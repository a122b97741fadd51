"""Chat templates: what the templates of common models use works as in transformers, and nothing gets out of hand."""

from __future__ import annotations

from datetime import datetime

import pytest

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
    template = """{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|head|>system\\n" }}
{%- if tools is not none %}{{- "tools: " + tools|tojson(indent=4) }}{%- endif %}
{{- "Year: " + strftime_now("%Y") + "\\n" if strftime_now is defined else "" }}
{{- system_message ~ "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '\\n' + message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant\\n' }}{%- endif %}
"""
    assert render(template) == f"<s><|head|>system\nYear: {YEAR}\n<|eot|><|head|>user\nHi<|eot|><|head|>assistant\n"
    assert "Be brief.<|eot|><|head|>user\nHi<|eot|>" in render(template, TALK)


def test_qwen_2_style():
    template = """{%- if tools %}{{- 'tools' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}{{- '<|im|>system\\n' + messages[0].content + '<|end|>\\n' }}{%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)
        or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im|>' + message.role + '\\n' + message.content + '<|end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im|>user' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im|>assistant\\n' }}{%- endif %}
"""
    assert render(template) == "<|im|>user\n Hi <|end|>\n<|im|>assistant\n"
    assert render(template, TALK).startswith("<|im|>system\nBe brief.<|end|>\n<|im|>user\nHi<|end|>\n<|im|>assistant\n")


def test_qwen_3_style():
    template = """{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and message.content is string
        and not (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}{{- '<think>' + thought }}{%- endif %}
    {%- endif %}
    {{- '[' ~ message.role ~ '|' ~ content ~ ']' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant|' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}
{%- endif %}
"""
    assert render(template, TALK) == "[system|Be brief.][user|Hi][assistant|Hello][user|Bye][assistant|"


def test_gemma_3_style():
    template = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("roles must alternate") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '</turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<turn>model\n'}}{%- endif -%}
"""
    assert render(template, TALK[:2]) == "<s><turn>user\nBe brief.\n\nHi</turn>\n<turn>model\n"
    with pytest.raises(UsageError, match="template refuses this conversation: roles must alternate"):
        render(template, [*ASK, *ASK])


def test_phi_3_style():
    template = """{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}
{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}
{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
    assert render(template).split() == ["<|user|>", "Hi", "<|end|>", "<|assistant|>"]
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"  # trim_blocks and lstrip_blocks


def test_granite_style():
    template = """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}
{%- set loop_messages = messages[1:] %}
{%- else %}{%- set system_message = "Today is " + strftime_now('%B %d, %Y') + "." %}
{%- if tools and documents %}{%- set system_message = system_message + " Tools." %}
{%- elif tools %}{%- set system_message = system_message + " Tool." %}{%- endif %}
{%- if 'citations' in controls %}{{- controls }}{%- endif %}
{%- set loop_messages = messages %}{%- endif %}
{{- '<r>system</r>' + system_message + '<eot>\n' }}
{%- for message in loop_messages %}
    {{- '<r>' + message['role'] + '</r>' + message['content'] + '<eot>\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<r>assistant' }}{%- if controls %}{{- ' ' + controls | tojson()}}{%- endif %}{{- '</r>' }}
    {%- endif %}
{%- endfor %}"""
    text = render(template)
    assert text.startswith(f"<r>system</r>Today is {datetime.now().astimezone():%B}")
    assert text.endswith("<r>user</r> Hi <eot>\n<r>assistant</r>")


def test_smollm_3_style():
    template = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{%- if messages[0].role == "system" -%}
    {%- set custom = messages[0].content.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "Year " ~ strftime_now("%Y") ~ " Mode " ~ mode ~ " " -}}
{%- if custom -%}{{- custom -}}{%- else -%}{{- "Default." -}}{%- endif -%}
{%- if xml_tools or python_tools or tools -%}
    {%- set ns = namespace(text="", n=0) -%}
    {%- for tool in xml_tools -%}{%- set ns.text = ns.text ~ (tool | string) ~ "\\n" -%}{%- endfor -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == "system" -%}{%- continue -%}{%- endif -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "assistant" -%}
        {% generation %}{{- "[a]" ~ content.lstrip("\\n") -}}{% endgeneration %}
    {%- else -%}{{- "[" ~ message.role[0] ~ "]" ~ content -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "[a]" }}{%- endif -%}
"""
    assert render(template) == f"Year {YEAR} Mode /think Default.[u] Hi [a]"
    text = f"Year {YEAR} Mode /think Be brief.[u]Hi[a]<think>\nhm\n</think>\n\nHello[u]Bye[a]"
    assert render(template, TALK) == text


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
