"""Judge: a teacher that rates what others wrote, from 1 to 5."""

from __future__ import annotations

from collections.abc import Sequence

from rung.synthesis.kinds.base import Draft, Stage
from rung.synthesis.teacher import Question, Teacher, seed_of

STAGE = Stage(("score",), choices=("1", "2", "3", "4", "5"))
MAX_TOKENS = 32  # of an answer that holds one score
JUDGED = -1  # takes the place of a stage's number in seeds


class Judge:
    """Rates drafts by the words of a teacher."""

    def __init__(self, teacher: Teacher):
        self.teacher = teacher

    def rate(self, description: str, drafts: Sequence[Draft], seed: int) -> list[int]:
        """Rate drafts from 1 to 5; 0 where the answer holds no rating."""
        questions = [
            Question(
                messages=({"role": "user", "content": wording(description, draft)},),
                seed=seed_of(seed, draft.index, JUDGED), schema=STAGE.schema(),
                max_tokens=MAX_TOKENS, temperature=0.0, top_p=1.0,
            )
            for draft in drafts
        ]  # fmt: skip
        scores = [str((a.value() or {}).get("score", "")) for a in self.teacher.ask(questions)]
        return [int(score) if score.isdigit() else 0 for score in scores]


def wording(description: str, draft: Draft) -> str:
    """Word the question for a rating."""
    written = "\n".join(f"{name}: {text}" for name, text in draft.fields.items())
    label = f"\nlabel: {draft.label}" if draft.label else ""
    return (
        f"An assistant does this: {description}\n\n"
        f"Somebody wrote an example of it:\n\n{written}{label}\n\n"
        "Rate the example from 1 (useless) to 5 (perfect)."
    )
