"""Many questions to a model behind an API, some at once, and labels read off its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from rung.errors import Interrupted
from rung.remote.model import RemoteAnswer, RemoteModel
from rung.types import Decoding, Message

LOOK = 0.2  # seconds between looks at whether to stop
MIN_PROBABILITY = 1e-30  # probability; what is told of no token still has a log-probability


def ask_all(
    there: RemoteModel,
    conversations: Sequence[Sequence[Message]],
    decodings: Sequence[Decoding],
    *,
    first: bool = False,
    stopping: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[RemoteAnswer]:
    """The answers, in the order of the questions.

    Args:
        first: ask for the likeliest first tokens. progress: told of each answer.

    Raises:
        Interrupted: when `stopping` says so. RungError: the first failure; nothing more is asked then.
    """
    with ThreadPoolExecutor(max(1, there.at_once), "rung-asking") as pool:
        asked = [
            pool.submit(there.ask, messages, decoding, first=first)
            for messages, decoding in zip(conversations, decodings, strict=True)
        ]
        left = set(asked)
        try:
            while left:
                done, left = wait(left, timeout=LOOK, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    if progress is not None:
                        progress(1)
                if stopping is not None and stopping():
                    raise Interrupted
        finally:
            for future in left:
                future.cancel()
    return [future.result() for future in asked]


def label_scores(
    first: Mapping[str, float], labels: Sequence[str], plain: Callable[[str], str]
) -> dict[str, float] | None:
    """Log-probability of each label by the answer's first token.

    A token counts for the one label that begins with it. None where tokens that could begin several
    labels hold more probability than the likeliest label.

    Args:
        first: log-probability of the likeliest first tokens. plain: a text as it is compared.
    """
    mass, shared = dict.fromkeys(labels, 0.0), 0.0
    for token, logprob in first.items():
        told = plain(token)
        owners = [label for label in labels if told and plain(label).startswith(told)]
        if len(owners) == 1:
            mass[owners[0]] += math.exp(logprob)
        elif owners:
            shared += math.exp(logprob)
    if max(mass.values(), default=0.0) <= shared:
        return None
    return {label: math.log(max(p, MIN_PROBABILITY)) for label, p in mass.items()}
