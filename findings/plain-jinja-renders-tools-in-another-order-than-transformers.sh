#!/usr/bin/env bash
# The same chat template rendered by Jinja2 and by transformers gives two prompts as soon as it holds tools.
#
# Version: Jinja2 3.1.6, transformers 5.23.0.
# Behaviour: templates write tools with the filter `tojson`. Jinja2's own sorts keys by name and writes
#   apostrophes, angle brackets, ampersands and all beyond ASCII as \u escapes, for use inside HTML. transformers
#   puts its own filter of that name in, which keeps the order given and the characters as they are.
# A good guess: a template is a file in a public language, so any renderer of that language gives the same text;
#   trim_blocks and lstrip_blocks are the known trap, and with them set the two agree on plain messages.
# Why it matters: a server that renders with Jinja2 sends the model tool descriptions in an order and a
#   spelling it was never trained on; tests without tools pass. Register a `tojson` that is json.dumps with
#   ensure_ascii=False.
# Seen:
#   without tools, equal: True
#   transformers: [{"type": "function", "function": {"name": "menu", "description": "A café's <b>"}}]
#   Jinja2:       [{"function": {"description": "A caf\u00e9\u0027s \u003cb\u003e", "name": "menu"}, "type": "function"}]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 Jinja2==3.1.6 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import json
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATE = """{% if tools %}
{{ tools | tojson }}
{% endif %}
{% for m in messages %}
<{{ m.role }}> {{ m.content }}
{% endfor %}"""
messages = [{"role": "user", "content": "What's on the <menu> of the café?"}]
tools = [{"type": "function", "function": {"name": "menu", "description": "A café's <b>"}}]
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), unk_token="<unk>"
)
tokenizer.chat_template = TEMPLATE
plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)


def theirs(tools: list | None) -> str:
    return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)


equal = theirs(None) == plain.render(messages=messages, tools=None)
a, b = (text.splitlines()[0] for text in (theirs(tools), plain.render(messages=messages, tools=tools)))
print("without tools, equal:", equal)
print("transformers:", a)
print("Jinja2:      ", b)
same_value = json.loads(a) == json.loads(b)
kept = a == json.dumps(tools, ensure_ascii=False)
ordered = b.startswith('[{"function": {"description": "A caf\\u00e9\\u0027s \\u003cb\\u003e"')
if not (equal and same_value and kept and ordered):
    sys.exit("no longer as stated: equal without tools, the same JSON otherwise, spelt in two ways")
PY
