#!/usr/bin/env bash
# Translation between Miskito and English, a language that the base has hardly met: chrF and BLEU of the bare
# base, and of the same base with the most similar translations found for each request.
#
#   bash examples/translation.sh              # 66 sentences of the wheel evals
#   ROWS=40 BASE=NAME bash examples/translation.sh
set -euo pipefail

BASE=${BASE:-smollm2-135m}
MEMBER=evals/registry/data/skill_acquisition/miskito/variants/miskito_test_translation.jsonl
DATA=(--data "wheel:evals/$MEMBER" --limit "${ROWS:-66}" --test 0.3 --validation 0.1)

rung tune interpreter --replace --base "$BASE" --method few_shot --shots 4 --pick nearest "${DATA[@]}"
rung eval interpreter "$BASE" "${DATA[@]}" --task translation --metric chrf
