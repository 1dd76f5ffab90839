#!/usr/bin/env bash
# Dataset.from_list takes its columns from the first row; what only later rows hold is dropped without a word.
#
# Version: datasets 5.2.0, pyarrow 26.0.1.
# Behaviour: the same three rows have three columns when read from a JSON-lines file (None where a row lacks
#   one) and a single one when they come as a list. `map` does the same with what its function returns: a
#   column that the first row did not get is in none; one that only the first got is a KeyError.
# A good guess: the union of the keys, as from JSON lines, or an error as for rows of unlike types.
# Why it matters: chat rows are ragged. `tools`, `weight`, `rejected` or `system` stand in some rows only, and
#   whether they are learnt hangs on which row comes first; shuffling the list changes the columns.
# Seen:
#   from_list         ['prompt']
#   from_list, turned ['prompt', 'tools']
#   JSON lines        ['prompt', 'rejected', 'tools']
#   map               ['prompt']
#   map, turned       KeyError 'tokens'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
HF_HOME="$work/hf" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import json
import sys
from pathlib import Path

import datasets

datasets.disable_progress_bars()
rows = [
    {"prompt": "Hello"},
    {"prompt": "Which is better?", "rejected": "Neither."},
    {"prompt": "What time is it?", "tools": "clock"},
]
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def mapped(order: list[dict]) -> list[str] | str:
    plain = datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in order])
    try:
        return plain.map(lambda row: {"tokens": 4} if "?" in row["prompt"] else {}).column_names
    except KeyError as error:
        return f"KeyError {error}"


seen = {
    "from_list": datasets.Dataset.from_list(rows).column_names,
    "from_list, turned": datasets.Dataset.from_list(rows[::-1]).column_names,
    "JSON lines": sorted(datasets.load_dataset("json", data_files="rows.jsonl", split="train").column_names),
    "map": mapped(rows),
    "map, turned": mapped(rows[::-1]),
}
stated = {
    "from_list": ["prompt"],
    "from_list, turned": ["prompt", "tools"],
    "JSON lines": ["prompt", "rejected", "tools"],
    "map": ["prompt"],
    "map, turned": "KeyError 'tokens'",
}
for name, value in seen.items():
    print(f"{name:17} {value}")
if seen != stated:
    sys.exit(f"no longer as stated: {stated}")
PY
