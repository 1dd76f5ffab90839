#!/usr/bin/env bash
# math-verify reads the mixed number "3 1/2" as 1, and inside \boxed{} as 2.
#
# Version: math-verify 0.9.0, latex2sympy2_extended 1.11.0, both with their own defaults.
# Behaviour: in plain text the numerator of a mixed number becomes the answer; inside \boxed{} the denominator
#   does. 7/2 and 3\frac{1}{2} are read rightly. So the right answer is judged wrong, and a gold of 1 is "met".
# A good guess: 7/2, or 3 (the first number), or 3/2 (a product, as many parsers have it), or no parse at all,
#   which a caller can see.
# Why it matters: it is the reward in much reinforcement learning on sums. Recipes, measures and school
#   problems are answered in mixed numbers; such rows teach the model to avoid the right answer, and the share
#   of unparsed answers, the usual alarm, stays at 0. Turn them into fractions before verifying.
# Seen:
#   3 1/2             -> 1     equals 7/2:  False  equals 1:    True   equals 2:    False
#   2 3/4             -> 3     equals 11/4: False  equals 3:    True   equals 4:    False
#   \boxed{3 1/2}     -> 2     equals 7/2:  False  equals 1:    False  equals 2:    True
#   $3\frac{1}{2}$    -> 7/2   equals 7/2:  True   equals 1:    False  equals 2:    False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
"$work/venv/bin/python" - <<'PY'
import sys

from math_verify import parse, verify

CASES = {
    "3 1/2": ("7/2", "1", "2"),
    "2 3/4": ("11/4", "3", "4"),
    r"\boxed{3 1/2}": ("7/2", "1", "2"),
    r"$3\frac{1}{2}$": ("7/2", "1", "2"),
}
seen = {}
for text, golds in CASES.items():
    answer = parse(text)
    seen[text] = [str(answer[0]), *(verify(parse(gold), answer) for gold in golds)]
    equal = " ".join(f"equals {gold + ':':5} {met!s:6}" for gold, met in zip(golds, seen[text][1:]))
    print(f"{text:17} -> {seen[text][0]:5} {equal.rstrip()}")
stated = [
    ["1", False, True, False],
    ["3", False, True, False],
    ["2", False, False, True],
    ["7/2", True, False, False],
]
if list(seen.values()) != stated:
    sys.exit(f"no longer as stated: {stated}")
PY
