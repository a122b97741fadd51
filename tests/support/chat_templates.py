"""Chat templates in the style of common models: what these use is what templates use."""

from __future__ import annotations

LLAMA_3 = """{{- bos_token }}
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

QWEN_2 = """{%- if tools %}{{- 'tools' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
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

QWEN_3 = """{%- set ns = namespace(multi=true, last=messages|length - 1) %}
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

GEMMA_3 = """{{ bos_token }}
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

PHI_3 = """{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}
{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}
{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

GRANITE = """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}
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

SMOLLM_3 = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
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

#: All of them by name.
TEMPLATES = {
    "LLAMA_3": LLAMA_3,
    "QWEN_2": QWEN_2,
    "QWEN_3": QWEN_3,
    "GEMMA_3": GEMMA_3,
    "PHI_3": PHI_3,
    "GRANITE": GRANITE,
    "SMOLLM_3": SMOLLM_3,
}
