"""What kind of task a data set is, found from its replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rung.types import Example, Message, Task

MOST_LABELS = 50
MOST_WORDS = 5  # of a label
LEAST_REPEATS = 3  # of a label, in the mean


def detect(examples: Iterable[Example]) -> Task:
    """The task of examples, by their replies.

    Few short replies that come again and again are a label set; plain texts are language modelling;
    all else is open generation.
    """
    replies = [reply(example) for example in examples]
    texts = [r for r in replies if r is not None]
    if len(texts) < len(replies):
        return Task("language_modelling", "perplexity")
    counts = Counter(texts)
    few = len(counts) <= MOST_LABELS and len(texts) >= LEAST_REPEATS * len(counts)
    if few and all(len(label.split()) <= MOST_WORDS for label in counts):
        return Task("classification", "accuracy", tuple(sorted(counts)))
    return Task("generation", "rouge_l")


def reply(example: Example) -> str | None:
    """The text to be learned: the last message or the label; None of a plain text."""
    if example.messages:
        return example.messages[-1]["content"]
    return example.label


def question(example: Example) -> tuple[Message, ...]:
    """The conversation up to the reply; of a labelled text, the text as the user's message."""
    if example.messages:
        return example.messages[:-1]
    return ({"role": "user", "content": example.text or ""},)
