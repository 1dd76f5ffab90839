#!/usr/bin/env bash
# A data set that is saved while it is shown with some of its columns shows only these when it is loaded again.
#
# Version: datasets 5.2.0: Dataset.with_format(..., columns=[...]), save_to_disk, load_from_disk.
# Behaviour: the view is written into state.json beside the rows. Whoever loads the folder gets rows without the other
#   columns, though `column_names` names them all, `map` hands its function all of them, and files that are written
#   from the set hold every column.
# A good guess: a format is how this process wants to see the set; what is on disk is the set, so that it loads with
#   all of its columns, and its rows are those that `map` and written files have.
# Why it matters: a trainer's `set_format(columns=["input_ids"])` before saving takes texts and labels away from
#   everybody who reads rows of that folder later, and nothing says so.
# Seen:
#   columns text, label; a row has label; a function of map is given label, text; JSON has label, text
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet datasets==5.2.0
cd "$folder"
HF_HOME="$folder/hf" HF_DATASETS_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import json

import datasets

datasets.disable_progress_bars()
rows = [{"text": "a kind word", "label": 1}, {"text": "an unkind one", "label": 0}]
datasets.Dataset.from_list(rows).with_format("numpy", columns=["label"]).save_to_disk("saved")
loaded, given = datasets.load_from_disk("saved"), []


def look(row):
    given.append(sorted(row))
    return row


loaded.map(look, load_from_cache_file=False)
loaded.to_json("rows.jsonl")
with open("rows.jsonl", encoding="utf-8") as file:
    written = sorted(json.loads(file.readline()))
print(
    f"columns {', '.join(loaded.column_names)}; a row has {', '.join(loaded[0])}; a function of map is given "
    f"{', '.join(given[0])}; JSON has {', '.join(written)}"
)
found = loaded.column_names, list(loaded[0]), given[0], written
assert found == (["text", "label"], ["label"], ["label", "text"], ["label", "text"]), "the behaviour has changed"
PY
