#!/usr/bin/env bash
# Adding "minimum": 0 to {"type": "number"} makes llguidance refuse 1e-05, and ends the number after its 1.
#
# Version: llguidance 1.9.1, JSON schema, one token a byte.
# Behaviour: a number without bounds may have an exponent. With a bound, here one that the value meets, the
#   grammar knows plain decimals only: `1` is accepted, is complete, and `e` may not follow.
# A good guess: a bound filters values, not spellings; every spelling of 0.00001 meets "minimum": 0.
# Why it matters: a model asked for a learning rate, a probability or a p-value writes 1e-05, as Python prints
#   it. Masked, its output is the valid JSON number 1: wrong by five powers of ten, and no error anywhere. Tell
#   the model to write decimals, or take the bound out of the grammar and check it afterwards.
# Seen (bytes accepted of the text):
#   no bound,   1e-05:   5 of 5
#   minimum 0,  1e-05:   1 of 5, and '1' is already a complete answer: True
#   minimum 0,  0.00001: 7 of 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet llguidance==1.9.1
"$work/venv/bin/python" - <<'PY'
import sys

from llguidance import LLMatcher, LLTokenizer

tokenizer = LLTokenizer("byte")
FREE, BOUND = {"type": "number"}, {"type": "number", "minimum": 0}


def matcher(schema: dict) -> LLMatcher:
    found = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema))
    assert not found.get_error(), found.get_error()
    return found


def accepted(schema: dict, text: str) -> int:
    return matcher(schema).validate_tokens(tokenizer.tokenize_str(text))


cut = matcher(BOUND)
cut.consume_tokens(tokenizer.tokenize_str("1"))
seen = [accepted(FREE, "1e-05"), accepted(BOUND, "1e-05"), cut.is_accepting(), accepted(BOUND, "0.00001")]
print(f"no bound,   1e-05:   {seen[0]} of 5")
print(f"minimum 0,  1e-05:   {seen[1]} of 5, and '1' is already a complete answer: {seen[2]}")
print(f"minimum 0,  0.00001: {seen[3]} of 7")
if seen != [5, 1, True, 7]:
    sys.exit("no longer as stated: 5, 1, True, 7")
PY
