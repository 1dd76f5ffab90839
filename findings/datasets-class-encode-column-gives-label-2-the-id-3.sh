#!/usr/bin/env bash
# class_encode_column sorts whole numbers as text, so with eleven labels or more the id is not the number.
#
# Version: datasets 5.2.0, pyarrow 26.0.1.
# Behaviour: labels 0 to 10, all present, get the class names '0', '1', '10', '2', ... in that order: label 2
#   becomes id 3, label 10 becomes id 2. With ten labels (0 to 9) nothing moves.
# A good guess: whole numbers from 0 are ids already, so encoding them changes nothing but the column's type.
#   That is what a trial with few labels shows.
# Why it matters: train_test_split(stratify_by_column=...) asks for a ClassLabel, so integer labels are encoded
#   on the way; the confusion matrix, the class names kept beside the model, and test labels read from
#   elsewhere are then off by a permutation that no check of range or count can see.
# Seen:
#   10 labels [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
#   11 labels [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2]
#   names ['0', '1', '10', '2', '3', '4', '5', '6', '7', '8', '9']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
HF_HOME="$work/hf" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import sys

import datasets

datasets.disable_progress_bars()


def encoded(labels: int) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"label": list(range(labels))}).class_encode_column("label")


ten, eleven = encoded(10), encoded(11)
ids = list(eleven["label"])
print("10 labels", list(ten["label"]))
print("11 labels", ids)
print("names", eleven.features["label"].names)
if not (list(ten["label"]) == list(range(10)) and ids == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2]):
    sys.exit("no longer as stated: ten labels stay, of eleven all from 2 on move")
PY
