"""Names of the columns of preference rows: what data sets call replies, prompts, scores and winners."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What the columns of the better and the worse reply are called, alone or with what they hold.
STEMS = (
    ("chosen", "rejected"), ("accepted", "rejected"), ("preferred", "rejected"),
    ("preferred", "dispreferred"), ("preferred", "non_preferred"),
)  # fmt: skip
# These mean replies only where a prompt stands beside them.
LOOSE_STEMS = (
    ("winner", "loser"), ("winning", "losing"), ("win", "lose"), ("y_w", "y_l"), ("best", "worst"),
    ("better", "worse"), ("good", "bad"),
)  # fmt: skip
WORSE = re.compile(
    r"(?:^|[\W_])(?:rejected|(?:non|un|dis)_?preferred|loser|losing|lose|y_l|worst|worse|bad|incorrect"
    r"|wrong|disliked|unwanted)(?:$|[\W_])",
    re.IGNORECASE,
)
HELD = ("response", "answer", "reply", "completion", "output", "text")


def _with_what_they_hold(stems: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    forms = ["{}", *(f"{{}}_{h}" for h in HELD), *(f"{h}_{{}}" for h in HELD)]
    return tuple((f.format(better), f.format(worse)) for better, worse in stems for f in forms)


SIDES, LOOSE_SIDES = _with_what_they_hold(STEMS), _with_what_they_hold(LOOSE_STEMS)
# One text each, and nothing beside: with a column more they may be anything.
CONTRASTS = (("positive", "negative"),)
PROMPTS = ("prompt", "question", "instruction", "query", "input", "context", "history",
           "messages", "conversations", "conversation")  # fmt: skip
REPLIES = (
    "completion",
    "response",
    "output",
    "answer",
    "completions",
    "responses",
    "outputs",
    "answers",
)
MARGINS = ("margin", "score_diff", "score_difference")
SCORES = ("score", "rating", "reward", "overall_score", "quality")
RANKS = ("rank", "ranks", "ranking")
WANTED = ("label", "kto_tag", "desirable", "is_desirable", "thumbs_up")
TWINS = (
    ("response_a", "response_b"), ("answer_a", "answer_b"), ("output_a", "output_b"),
    ("completion_a", "completion_b"), ("conversation_a", "conversation_b"),
    ("response_1", "response_2"), ("answer_1", "answer_2"), ("output_1", "output_2"),
    ("response_0", "response_1"), ("answer_0", "answer_1"), ("output_0", "output_1"),
    ("human_ref_A", "human_ref_B"),
)  # fmt: skip
WINNERS = ("winner", "preference", "preferred", "choice", "better", "better_response_id", "label",
           "labels")  # fmt: skip
TIES = {"tie", "both", "neither", "none", "equal", "draw", "tie (bothbad)", "both_bad", "same", ""}
