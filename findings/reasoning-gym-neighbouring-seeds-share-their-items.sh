#!/usr/bin/env bash
# Two reasoning-gym data sets of seeds 1 and 2 hold the same items, all but one.
#
# Version: reasoning-gym 0.1.25.
# Behaviour: item i of a data set of seed s is drawn from a generator seeded with s + i. Seed 2 is therefore
#   seed 1 shifted by one row; seeds s and s + d share all but d of their items, whatever the task.
# A good guess: another seed is another sample; some items coincide by chance where the task is small.
# Why it matters: training with seed 1 and testing with seed 2 is training on the test set, and the score says
#   so only by being too good. Runs "over five seeds" are one run. Take seeds further apart than the size of
#   the set, or cut one set in two by index.
# Seen:
#   task            seeds 1 and 2   1 and 11   1 and 101   (shared of 100)
#   chain_sum       99              90         0
#   letter_counting 99              90         0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet reasoning_gym==0.1.25
"$work/venv/bin/python" - <<'PY'
import sys

import reasoning_gym

TASKS = ("chain_sum", "letter_counting")


def questions(task: str, seed: int) -> set[str]:
    return {item["question"] for item in reasoning_gym.create_dataset(task, seed=seed, size=100)}


print(f"{'task':15} seeds 1 and 2   1 and 11   1 and 101   (shared of 100)")
shared = {}
for task in TASKS:
    first = questions(task, 1)
    shared[task] = [len(first & questions(task, seed)) for seed in (2, 11, 101)]
    print(f"{task:15} {shared[task][0]:<15} {shared[task][1]:<10} {shared[task][2]}")
if shared != {task: [99, 90, 0] for task in TASKS}:
    sys.exit("no longer as stated: 99, 90 and 0 shared items")
PY
