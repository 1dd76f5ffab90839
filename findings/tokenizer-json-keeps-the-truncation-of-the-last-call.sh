#!/usr/bin/env bash
# A tokenizer that was called once with truncation is saved with it, and cuts every text elsewhere.
#
# Version: transformers 5.23.0, tokenizers 0.23.3.
# Behaviour: `tokenizer(text, truncation=True, max_length=3, padding="max_length")` sets both on the Rust object
#   underneath, and save_pretrained writes them into tokenizer.json. transformers resets them at each call, so
#   there all looks well; whatever reads the file with the tokenizers library keeps three tokens of each text,
#   and pads what is shorter.
# A good guess: the arguments of a call concern that call; saving before or after it gives the same file.
# Why it matters: a training run tokenises its rows with a limit and then saves the tokenizer beside the model.
#   Servers that load tokenizer.json with the tokenizers library then see prompts cut to the training's
#   length. Save before the first call, or call once without limits just before saving, which resets both.
# Seen:
#   saved before the call, by tokenizers   [2, 3, 4, 5, 6, 7, 8, 9] [2]
#   saved after the call, by tokenizers    [2, 3, 4] [2, 1, 1]
#   saved after the call, by transformers  [2, 3, 4, 5, 6, 7, 8, 9] [2]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LONG, SHORT = "a b c d e f g h", "a"
words = {"<unk>": 0, "<pad>": 1} | {word: i + 2 for i, word in enumerate(LONG.split())}
raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>")


def by_tokenizers(folder: str) -> list[list[int]]:
    read = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return [read.encode(text).ids for text in (LONG, SHORT)]


tokenizer.save_pretrained("before")
tokenizer(LONG, truncation=True, max_length=3, padding="max_length")
tokenizer.save_pretrained("after")
again = PreTrainedTokenizerFast.from_pretrained("after")
seen = {
    "saved before the call, by tokenizers": by_tokenizers("before"),
    "saved after the call, by tokenizers": by_tokenizers("after"),
    "saved after the call, by transformers": [again(text)["input_ids"] for text in (LONG, SHORT)],
}
whole = [[2, 3, 4, 5, 6, 7, 8, 9], [2]]
stated = dict(zip(seen, [whole, [[2, 3, 4], [2, 1, 1]], whole]))
for name, value in seen.items():
    print(f"{name:38} {value[0]} {value[1]}")
if seen != stated:
    sys.exit(f"no longer as stated: {stated}")
PY
