"""Chat templates whose calls of tools are written in several ways, after what their families document.

Each was written here, shortened to what concerns turns, tools, calls and results.
"""

from __future__ import annotations

from typing import Any

from tests.tokens import CHATML, tiny_tokenizer

TAGS = ["[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

# Llama 3.1: a bare object with `parameters`, one call a turn, arguments as an object; role ipython.
LLAMA = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "{{ '<|im_start|>system\n' + said + '<|im_end|>' }}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' or m.role == 'ipython' %}{{ '<|im_start|>ipython\n' }}"
    "{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}"
    "{% elif m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('only one call at once') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}{{ '<|im_start|>assistant\n' }}"
    "{{ '{\"name\": \"' + call.name + '\", ' }}{{ '\"parameters\": ' }}{{ call.arguments | tojson }}"
    "{{ '}<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' }}"
    '{% if tools and loop.first %}{{ \'Answer with {"name": ..., "parameters": ...}.\n\' }}'
    "{% for t in tools %}{{ t | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}"
    "{{ (m.content | trim) + '<|im_end|>' }}{% endif %}{% endfor %}" + _ASK
)
# Mistral: one list behind a special token, ids of nine characters, results as JSON behind another;
# turns of user and assistant alternate; no generation prompt; text beside calls is not written.
MISTRAL = (
    "{% set ns = namespace(turn=0) %}{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}"
    "{% if (m.role == 'user') != (ns.turn % 2 == 0) %}{{ raise_exception('turns must alternate') }}"
    "{% endif %}{% set ns.turn = ns.turn + 1 %}{% endif %}{% endfor %}"
    "{% if tools %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}"
    "{% if not c.id or c.id | length != 9 %}{{ raise_exception('ids of length 9') }}{% endif %}"
    "{% set out = c.function | tojson %}{{ out[:-1] + ', \"id\": \"' + c.id + '\"}' }}"
    "{{ ', ' if not loop.last else ']' + eos_token }}{% endfor %}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% elif m.role == 'tool' %}"
    '{{ \'[TOOL_RESULTS] {"content": \' + (m.content | tojson) + \', "call_id": "\' + m.tool_call_id }}'
    "{{ '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{ raise_exception('only user, assistant and tool') }}{% endif %}{% endfor %}"
)
# Hermes, Qwen 2.5: an object within tags, each on lines of its own; results as a user's turn.
HERMES = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}{% for t in tools %}{{ '\n' + (t | tojson) }}"
    "{% endfor %}{{ '\n</tools><|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif m.tool_calls %}{{ '<|im_start|>assistant' }}"
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}{% for c in m.tool_calls %}"
    '{{ \'\n<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ (c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}" + _ASK
)
# A list in a fenced block, arguments as JSON text, results of a role of their own.
FENCED = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% if m.tool_calls %}{{ '\n' if m.content else '' }}{{ '```json\n[' }}{% for c in m.tool_calls %}"
    "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' + c.function.arguments + '}' }}"
    "{{ ',\n' if not loop.last else '' }}{% endfor %}{{ ']\n```' }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + _ASK
)
# Calls in no form of JSON: name and arguments apart, as DeepSeek writes them.
APART = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ 'function ' + c.function.name + ' with ' }}"
    "{{ c.function.arguments | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + _ASK
)
NATIVE = {"llama": LLAMA, "mistral": MISTRAL, "hermes": HERMES, "fenced": FENCED}
OTHERS = {"apart": APART, "none": CHATML}
ALL = {**NATIVE, **OTHERS}


def calling_tokenizer(family: str) -> Any:
    """A small tokenizer with one of these templates, and its tags as special tokens."""
    tokenizer = tiny_tokenizer()
    if family == "mistral":
        tokenizer.add_special_tokens({"additional_special_tokens": TAGS})
    tokenizer.chat_template = ALL[family]
    return tokenizer


def calling_template(family: str) -> Any:
    from rung.data import Template

    return Template.of(calling_tokenizer(family))
