"""Ollama's folder: the Modelfile is read by a parser of its grammar, its template by Go's rules."""

from __future__ import annotations

import re

import pytest

from rung import exports
from rung.errors import ConfigError
from rung.exports.ollama_template import converted
from tests.exports.test_gguf import source_of

COMMANDS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE")
CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Be {{kind}}."), ("user", "a\nb")],
    [("user", "x"), ("assistant", "y"), ("user", "z")],
]


def parse(text):
    """(command, value) of a Modelfile: values plain to the end of the line, "...", or three quotes."""
    found, rest = [], text
    while rest.strip():
        head = re.match(r"\s*([A-Za-z]+)[ \t]+", rest)
        assert head and head[1].upper() in COMMANDS, rest[:40]
        name, rest = head[1].upper(), rest[head.end() :]
        if name == "PARAMETER":
            key = re.match(r"([A-Za-z_0-9]+)[ \t]+", rest)
            name, rest = f"PARAMETER {key[1]}", rest[key.end() :]
        for quote in ('"""', '"'):
            if rest.startswith(quote):
                value, end, rest = rest[len(quote) :].partition(quote)
                assert end, "an unclosed quote"
                break
        else:
            value, _, rest = rest.partition("\n")
        found.append((name, value))
    return found


def execute(template, messages):
    """Go's text/template, as far as `range .Messages`, `if eq .Role`, `.Content` and strings go."""
    tokens = re.split(r"(\{\{.*?\}\}(?!\}))", template)
    loop = tokens.index("{{ range .Messages }}")
    end = max(i for i, token in enumerate(tokens) if token == "{{ end }}")

    def run(part, message):
        out, take = "", True
        for token in part:
            case = re.fullmatch(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}', token)
            if case:
                take = message is not None and message[0] == case[1]
            elif token == "{{ end }}":
                take = True
            elif token == "{{ .Content }}":
                out += message[1] if take else ""
            elif literal := re.fullmatch(r'\{\{ "(.*)" \}\}', token):
                out += literal[1] if take else ""
            else:
                out += token if take else ""
        return out

    return (
        run(tokens[:loop], None)
        + "".join(run(tokens[loop + 1 : end], m) for m in messages)
        + run(tokens[end + 1 :], None)
    )


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
    " + m.content + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'system' %}<<SYS>>{{ m.content }}<</SYS>>\n"
    "{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


def renderer(template, bos="<s>"):
    import jinja2

    jinja = jinja2.Environment(trim_blocks=False).from_string(template)  # noqa: S701
    return lambda messages: jinja.render(messages=messages, add_generation_prompt=True, bos_token=bos)


@pytest.mark.parametrize("template", [LLAMA3, DEFAULT, INST], ids=["llama3", "default", "inst"])
@pytest.mark.parametrize("said", CONVERSATIONS)
def test_the_template_fills_in_as_the_chat_template_does(template, said):
    render = renderer(template)
    found = converted(render, "<s>")
    messages = [{"role": role, "content": content} for role, content in said]
    shown = list(said)
    if found.system is not None and said[0][0] != "system":
        shown.insert(0, ("system", found.system))
    assert execute(found.text(), shown) == render(messages).removeprefix("<s>")


def test_a_template_that_says_more_is_refused():
    counting = "{% for m in messages %}{{ loop.index }}: {{ m.content }}{% endfor %}>"
    with pytest.raises(ConfigError, match="use --to gguf"):
        converted(renderer(counting))


def test_the_modelfile_holds_template_stops_and_settings(tmp_path):
    own, made = tmp_path / "own", tmp_path / "made"
    own.mkdir()
    made.mkdir()
    source = source_of("llama", own)
    chosen = exports.get("ollama")
    assert chosen.misfit(source) is None
    chosen.write(source, made, "float32")
    found = parse((made / "Modelfile").read_text())
    names = [name for name, _ in found]
    told = dict(found)
    assert names.count("FROM") == names.count("TEMPLATE") == 1 and (made / told["FROM"]).is_file()
    assert "<|im_end|>" in [value for name, value in found if name == "PARAMETER stop"]
    assert told["PARAMETER temperature"] == "0" and told["PARAMETER repeat_penalty"] == "1.0"
    assert told["PARAMETER num_ctx"] == "128"
    filled = execute(told["TEMPLATE"], [("user", "Hi")])
    assert filled == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
