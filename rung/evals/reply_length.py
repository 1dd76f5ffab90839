"""How long answers may become: as long as the references, twice."""

from __future__ import annotations

from collections.abc import Sequence

from rung.engine import ServedModel
from rung.evals.tasks import reply
from rung.types import Decoding, Example

MIN_TOKENS = 16  # tokens that an answer may take, however short the references are


def decoding_for(model: ServedModel, examples: Sequence[Example]) -> Decoding:
    """Give room for twice the longest reference; a base without turns ends where references do.

    What an adapter needs to reason comes from the adapter.
    """
    references = [reply(e) or "" for e in examples]
    lines = not model.template.chat and not any("\n" in r.strip() for r in references)
    stop = model.decoding.stop or (("\n",) if lines else ())
    if model.conversation is not None and model.conversation.max_tokens is not None:
        return Decoding(model.conversation.max_tokens, stop=model.decoding.stop)
    encoded = (
        model.template.tokenizer(references, add_special_tokens=False)["input_ids"]
        if references
        else []
    )
    longest = max((len(ids) for ids in encoded), default=0)
    return Decoding(min(model.decoding.max_tokens, max(MIN_TOKENS, 2 * longest)), stop=stop)
