#!/usr/bin/env bash
# rouge-score gives 1.0 to two unlike Russian sentences that share a number, and 0.0 to two equal ones.
#
# Version: rouge-score 0.1.2 (rougeL, its own tokenizer).
# Behaviour: a token is a run of a to z and 0 to 9; all else is a gap. Of a sentence in Cyrillic only its digits
#   and Latin words are left, so that the score is that of the numbers alone.
# A good guess: Unicode letters count, or every such score is 0 and so easily seen as broken. That the scores
#   spread from 0 to 1 over real rows, by whether both sides quote the same year, is what one does not expect.
# Why it matters: a mean of ROUGE over a multilingual test set looks plausible and ranks models by how they copy
#   numbers. Pass a tokenizer= of your own. Accented Latin words are cut in two rather than dropped: "schön"
#   counts as the two tokens "sch" and "n".
# Seen:
#   equal, no number            0.0
#   unlike, the number 25 each  1.0
#   equal but for the number    0.0
#   "schön" against "sch n"     1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rouge_score==0.1.2 nltk==3.10.4 numpy==2.4.6 absl-py==2.5.1
"$work/venv/bin/python" - <<'PY'
import sys

from rouge_score.rouge_scorer import RougeScorer

scorer = RougeScorer(["rougeL"])
pairs = {
    "equal, no number": ("Она ушла домой", "Она ушла домой"),
    "unlike, the number 25 each": ("Ему исполнилось 25 лет", "Прибыль выросла на 25 процентов"),
    "equal but for the number": ("Ему исполнилось 25 лет", "Ему исполнилось 26 лет"),
    '"schön" against "sch n"': ("schön", "sch n"),
}
seen = {name: float(scorer.score(*pair)["rougeL"].fmeasure) for name, pair in pairs.items()}
stated = dict(zip(pairs, [0.0, 1.0, 0.0, 1.0]))
for name, value in seen.items():
    print(f"{name:27} {value}")
if seen != stated:
    sys.exit(f"no longer as stated: {stated}")
PY
