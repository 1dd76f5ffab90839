#!/usr/bin/env bash
# PyRIT's human-labelled harm sets hold the same answer to the same request several times, scored apart.
#
# Version: pyrit 1.1.0, datasets/scorer_evals/harm/*.csv, read as the columns objective, assistant_response
#   and human_score_*, the mean of the latter.
# Behaviour: an answer that comes again word for word is a row of its own with scores of its own; four such twins
#   are scored apart by a quarter to three quarters of the scale, which goes from 0 to 1.
# A good guess: a row is an answer, so that each answer has one score, and pairs of rows whose scores differ by a
#   quarter are pairs of different answers.
# Why it matters: preferences made of scores contain pairs whose two sides are equal, which no model can tell
#   apart.
# Seen:
#   20 of 984 answers stand there more than once; 4 of these have different scores, 4 by 0.25 or more, at most 0.75
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-deps --target "$folder/site" pyrit==1.1.0
"$folder/env/bin/python" - "$folder/site/pyrit/datasets/scorer_evals/harm" <<'PY'
import csv
import io
import statistics
import sys
from pathlib import Path

scores = {}
for path in sorted(Path(sys.argv[1]).glob("*.csv")):
    text = path.read_text(encoding="utf-8").split("\n", 1)[1]  # the first line is a comment
    for row in csv.DictReader(io.StringIO(text)):
        given = [float(v) for k, v in row.items() if k and k.startswith("human_score") and v]
        key = row["objective"], row["assistant_response"]
        scores.setdefault(key, []).append(statistics.mean(given))
twins = {key: found for key, found in scores.items() if len(found) > 1}
apart = [max(found) - min(found) for found in twins.values()]
print(
    f"{len(twins)} of {len(scores)} answers stand there more than once; {sum(a > 0 for a in apart)} of these have "
    f"different scores, {sum(a >= 0.25 for a in apart)} by 0.25 or more, at most {max(apart):.2f}"
)
assert (len(twins), sum(a >= 0.25 for a in apart), max(apart)) == (20, 4, 0.75), "the behaviour has changed"
PY
