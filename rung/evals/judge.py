"""A judge: any model behind an OpenAI-compatible address says which of two answers is better.

Judges prefer what they read first, so every pair is shown in both orders, and only a verdict that
survives the swap counts (MT-Bench, arXiv 2306.05685); all else is a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError, RungError
from rung.evals.label_text import verdict_of

if TYPE_CHECKING:
    from rung.types import Message

JUDGE_KEY = "RUNG_JUDGE_KEY"  # environment variable with the judge's API key
AT_ONCE = 8  # requests on their way
PROMPT = """Compare two answers to the same request. Judge whether they are right, complete, to the \
point and in the form asked for; their length and order do not count.

[Request]
{asked}

[Answer 1]
{first}

[Answer 2]
{second}

Reply with one word: 1 if the first answer is better, 2 if the second is, or tie."""
VERDICTS = ("1", "2", "tie")  # that the prompt asks for


class JudgeFault(RungError):
    """The judge cannot be reached or does not answer as it should."""

    exit_code = 1


@dataclass
class Judge:
    """A judging model.

    Args:
        model: its name. client: an `openai.OpenAI`.
    """

    model: str
    client: Any

    @classmethod
    def at(cls, address: str, model: str, key: str | None = None) -> Judge:
        """A judge behind an address such as http://localhost:8000/v1.

        Raises:
            ConfigError: for what is no address.
        """
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"the judge's address '{address}' must begin with http:// or https://")
        from openai import OpenAI

        return cls(model, OpenAI(base_url=address, api_key=key or "none", max_retries=2, timeout=120))

    def compare(
        self,
        asked: Sequence[Sequence[Message]],
        first: Sequence[str],
        second: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """Per request 1.0 where `first` is better, 0.0 where `second` is, 0.5 for a tie.

        Raises:
            JudgeFault: when the judge cannot be asked.
        """
        done = 0

        def verdict(i: int) -> float:
            nonlocal done
            value = self._both(_told(asked[i]), first[i], second[i])
            done += 1
            if progress is not None:
                progress(done, len(asked))
            return value

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(verdict, range(len(asked))))

    def _both(self, asked: str, first: str, second: str) -> float:
        if first.strip() == second.strip():
            return 0.5
        straight = self._once(asked, first, second)
        swapped = self._once(asked, second, first)
        if straight == "1" and swapped == "2":
            return 1.0
        if straight == "2" and swapped == "1":
            return 0.0
        return 0.5

    def _once(self, asked: str, first: str, second: str) -> str:
        from openai import OpenAIError

        text = PROMPT.format(asked=asked, first=first, second=second)
        try:
            reply = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": text}], temperature=0,
                max_tokens=16,
            )  # fmt: skip
        except OpenAIError as fault:
            raise JudgeFault(f"the judge '{self.model}' did not answer: {fault}") from None
        return verdict_of(reply.choices[0].message.content or "", VERDICTS) or "tie"


def _told(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
