"""Chat templates that show calls of tools in the forms that models write, each as short as it can be."""

from __future__ import annotations

_TURNS = """{%- for message in messages %}
{{- '<|turn|>' + message.role + '\\n' }}
{%- if message.content %}{{ message.content }}{% endif %}
{%- if message.tool_calls %}CALLS{% endif %}
{{- '<|over|>\\n' }}
{%- endfor %}
{%- if tools %}{{ '' }}{% endif %}
{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"""

_EACH = "{%- for call in message.tool_calls %}{% set function = call.function %}ONE{%- endfor %}"


def _template(one: str, *, before: str = "", behind: str = "") -> str:
    calls = before + _EACH.replace("ONE", one) + behind
    return _TURNS.replace("CALLS", calls)


_BETWEEN = "{% if not loop.first %}{{ ', ' }}{% endif %}"
_ARGUMENTS = "{{ function.arguments | tojson }}"
_ELEMENTS = (
    "{% for key, value in function.arguments.items() %}{{ 'OPEN' + key + 'MIDDLE' }}"
    "{{ value if value is string else value | tojson }}{{ 'CLOSE' }}{% endfor %}"
)


def _elements(begin: str, middle: str, close: str) -> str:
    return _ELEMENTS.replace("OPEN", begin).replace("MIDDLE", middle).replace("CLOSE", close)


#: By what is particular of them.
TOOL_TEMPLATES = {
    "an object between marks": _template(
        '{{ \'<call>\\n{"name": "\' + function.name + \'", "arguments": \' }}' + _ARGUMENTS + "{{ '}\\n</call>' }}"
    ),
    "a list": _template(
        _BETWEEN + '{{ \'{"name": "\' + function.name + \'", "parameters": \' }}' + _ARGUMENTS + "{{ '}' }}",
        before="{{ '<calls>[' }}",
        behind="{{ ']</calls>' }}",
    ),
    "a list with identifiers": _template(
        _BETWEEN
        + '{{ \'{"name": "\' + function.name + \'", "arguments": \' }}'
        + _ARGUMENTS
        + "{{ ', \"id\": \"' + call.id + '\"}' }}",
        before="{{ '[CALLS][' }}",
        behind="{{ ']' }}",
    ),
    "a name before its arguments": _template("{{ '[CALL]' + function.name + '[ARGS]' }}" + _ARGUMENTS),
    "a name with an identifier": _template("{{ '[CALL]' + function.name + '[ID]' + call.id + '[ARGS]' }}" + _ARGUMENTS),
    "calls that are counted": _template(
        "{{ '<|call|>functions.' + function.name + ':' + loop.index0 | string + '<|arguments|>' }}"
        + _ARGUMENTS
        + "{{ '<|called|>' }}",
        before="{{ '<|section|>' }}",
        behind="{{ '<|end of section|>' }}",
    ),
    "the name as a key": _template(
        _BETWEEN + "{{ '{\"' + function.name + '\": ' }}" + _ARGUMENTS + "{{ '}' }}",
        before="{{ '<|tools|>[' }}",
        behind="{{ ']<|no more tools|>' }}",
    ),
    "elements on lines of their own": _template(
        "{{ '<call>\\n<function=' + function.name + '>\\n' }}"
        + _elements("<parameter=", ">\\n", "\\n</parameter>\\n")
        + "{{ '</function>\\n</call>\\n' }}"
    ),
    "elements with names of their own": _template(
        "{{ '<call>' + function.name + '\\n' }}"
        + _elements("<key>", "</key>\\n<value>", "</value>\\n")
        + "{{ '</call>' }}"
    ),
    "elements that say what is a string": _template(
        "{{ '<do name=\"' + function.name + '\">\\n' }}"
        "{% for key, value in function.arguments.items() %}"
        "{{ '<with name=\"' + key + '\" string=\"' + ('true' if value is string else 'false') + '\">' }}"
        "{{ value if value is string else value | tojson }}{{ '</with>\\n' }}{% endfor %}{{ '</do>\\n' }}",
        before="{{ '<all>\\n' }}",
        behind="{{ '</all>' }}",
    ),
    "marks around strings": _template(
        "{{ '<|call>call:' + function.name + '{' }}"
        "{% for key, value in function.arguments.items() %}{% if not loop.first %}{{ ',' }}{% endif %}{{ key + ':' }}"
        "{% if value is string %}{{ '<|q|>' + value + '<|q|>' }}{% else %}{{ value | tojson }}{% endif %}"
        "{% endfor %}{{ '}<call|>' }}"
    ),
    "behind an empty thought": _template(
        '{{ \'<call>{"name": "\' + function.name + \'", "arguments": \' }}' + _ARGUMENTS + "{{ '}</call>' }}",
        before="{{ '<think>\\n\\n</think>\\n\\n' }}",
    ),
}
#: Of which a turn has one call.
SINGLE = {
    "nothing but JSON": _template(
        "{% if not loop.first %}{{ raise_exception('one call at a time') }}{% endif %}"
        '{{ \'{"name": "\' + function.name + \'", "parameters": \' }}' + _ARGUMENTS + "{{ '}' }}"
    ),
    "arguments as text": _template(
        "{% if not loop.first %}{{ raise_exception('one call at a time') }}{% endif %}"
        "{{ '<call>' + function.name + '\\n' + function.arguments + '\\n</call>' }}"
    ),
}
#: Which show no calls.
NONE = {"no tools": "{% for message in messages %}{{ message.role + message.content }}{% endfor %}"}
