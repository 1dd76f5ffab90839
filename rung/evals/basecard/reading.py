"""How well a base predicts plain text: by style, and by how much of it has been read before."""

from __future__ import annotations

import math
from typing import Any

from rung.evals.basecard.material import material
from rung.evals.basecard.progress import Progress
from rung.evals.basecard.subject import Subject
from rung.evals.scoring import Item, score

SPAN = 32  # tokens that are predicted together behind each context
SPANS = (4, 8)  # of them, quick and thorough
CONTEXTS = (8, 32, 128, 512)


def reading(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """Perplexity of the passages, and of the same tokens behind more and more context.

    `bits_per_byte` counts the bytes of what was predicted, so that it can be compared between
    tokenizers, which perplexity per token cannot.
    """
    styles = _styles(subject, progress)
    nats = sum(s["nats"] for s in styles)
    tokens = sum(s["tokens"] for s in styles)
    size = sum(s["bytes"] for s in styles)
    return {
        "material": material().version,
        "tokens": tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
        "styles": [
            {
                "style": s["style"],
                "perplexity": math.exp(s["nats"] / s["tokens"]),
                "bits_per_byte": s["nats"] / math.log(2) / s["bytes"],
            }
            for s in styles
        ],
        "by_context": _by_context(subject, quick, progress),
    }


def _styles(subject: Subject, progress: Progress) -> list[dict[str, Any]]:
    found = []
    for passage in material().passages:
        ids = subject.encode(passage.text)[: subject.context]
        # What nothing stands before cannot be predicted; a beginning-of-text token predicts all.
        unseen = subject.tokenizer.decode(list(ids[:1]), skip_special_tokens=True)
        text = subject.tokenizer.decode(list(ids), skip_special_tokens=True)
        (nats,) = score(subject.bank, -1, [Item(ids[:1], (ids[1:],))])[0]
        found.append(
            {
                "style": passage.style,
                "nats": -nats,
                "tokens": len(ids) - 1,
                "bytes": len(text.encode()) - len(unseen.encode()),
            }
        )
        progress(0.5 * len(found) / len(material().passages))
    return found


def _by_context(subject: Subject, quick: bool, progress: Progress) -> list[dict[str, float]]:
    """The last tokens of all passages, each span of them behind its nearest n tokens."""
    ids = subject.encode("\n\n".join(p.text for p in material().passages))
    starts = [len(ids) - SPAN * (i + 1) for i in range(SPANS[not quick])]
    found = []
    for n in CONTEXTS:
        if n > min(starts) or n + SPAN > subject.context:
            break
        items = [Item(ids[s - n : s], (ids[s : s + SPAN],)) for s in starts]
        nats = -sum(row[0] for row in score(subject.bank, -1, items))
        found.append({"context": n, "perplexity": math.exp(nats / (SPAN * len(items)))})
        progress(0.5 + 0.5 * len(found) / len(CONTEXTS))
    return found
