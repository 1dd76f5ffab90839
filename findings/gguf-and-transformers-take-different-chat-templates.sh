#!/usr/bin/env bash
# From one model folder, gguf writes the chat template that transformers does not use.
#
# Version: gguf 0.19.0, transformers 5.23.0.
# Behaviour: a folder may hold the template in tokenizer_config.json, in chat_template.jinja, or in both. If
#   they differ, transformers renders the .jinja file and gguf (which llama.cpp's converters use) takes the one
#   in the config. `"chat_template": null` in the config hides the .jinja file from gguf altogether.
# A good guess: the newer file wins everywhere, or both read the config first; null is the same as absent.
# Why it matters: whoever mends a template edits one place. Training and evaluation in transformers then use
#   the mended one, the exported model is served with the old one or none, and the answers are merely worse.
#   Leave one template per folder and no null key, and compare the two before an export.
# Seen:
#   config  .jinja  gguf  transformers
#   A       B       A     B
#   absent  B       B     B
#   null    B       None  B
#   A       absent  A     A
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gguf==0.19.0 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import json
import sys
from pathlib import Path

from gguf import SpecialVocab
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

ABSENT = "absent"


def both(name: str, config: str | None, jinja: str) -> tuple[str | None, str | None]:
    folder = Path(name)
    folder.mkdir()
    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    if config != ABSENT:
        settings["chat_template"] = config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if jinja != ABSENT:
        (folder / "chat_template.jinja").write_text(jinja)
    return SpecialVocab(folder).chat_template, AutoTokenizer.from_pretrained(folder).chat_template


cases = [("A", "B"), (ABSENT, "B"), (None, "B"), ("A", ABSENT)]
seen = [both(str(i), *case) for i, case in enumerate(cases)]
print("config  .jinja  gguf  transformers")
for (config, jinja), (a, b) in zip(cases, seen):
    print(f"{config or 'null':7} {jinja:7} {a!s:5} {b}")
if seen != [("A", "B"), ("B", "B"), (None, "B"), ("A", "A")]:
    sys.exit("no longer as stated: A B, B B, None B, A A")
PY
