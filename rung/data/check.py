"""What would ruin a training, found before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rung.data import template_check
from rung.data.problem import Problem, counted, places
from rung.data.split import Splits
from rung.errors import DataError, one_line
from rung.pictures.tokens import FIRST_ID
from rung.types import Rendered

if TYPE_CHECKING:
    from rung.data.template import Template

# (ids) -> those of them whose embeddings the base never trained
Untrained = Callable[[Sequence[int]], Sequence[int]]


def check(
    rendered: Sequence[Rendered],
    splits: Splits | None = None,
    template: Template | None = None,
    *,
    max_length: int | None = None,
    untrained: Untrained | None = None,
    vocabulary: int | None = None,
    found: Sequence[Problem] = (),
) -> list[Problem]:
    """Everything that is wrong with rows as the model will see them, and with the template.

    Args:
        rendered: the training rows.
        splits: their problems (leakage, empty sets) are included.
        template: enables the checks of end of turn, generation prompt and beginning of text.
        max_length: rows above it are named.
        untrained: tells which ids the base never trained (see `untrained_rows`).
        vocabulary: how many rows the base's embeddings have.
        found: problems met in rendering; where no row came out of it, they say why.
    """
    problems = list(splits.problems) if splits else []
    if rendered or not any(p.severity == "error" for p in found):
        problems += _supervision(rendered)
    if max_length is not None:
        problems += _length(rendered, max_length)
    if template is not None:
        problems += template_check.problems(template)
        problems += _ends(rendered, template)
        problems += _begins(rendered, template)
        if vocabulary is not None and (beyond := _beyond(rendered, template, vocabulary)):
            return [*problems, *beyond]
        if untrained is not None:
            problems += _trained(rendered, template, untrained)
    return problems


def refuse(problems: Sequence[Problem]) -> None:
    """Stop when there is an error among the problems.

    Raises:
        DataError: with every error on one line.
    """
    errors = [p.message for p in problems if p.severity == "error"]
    if errors:
        raise DataError(one_line(errors))


def untrained_rows(embeddings: Any, near: float = 1e-6) -> Untrained:
    """Which tokens a base never trained, judged by its input embeddings (vocab, d).

    A row that is all zero, or the same as another asked-for row, was never moved by training: the
    mark of chat tokens that were added to a base without teaching them.
    """

    def untrained(ids: Sequence[int]) -> list[int]:
        import torch

        asked = [i for i in dict.fromkeys(ids) if 0 <= i < embeddings.shape[0]]
        if not asked:
            return []
        rows = embeddings[torch.tensor(asked, device=embeddings.device)].float()  # (n, d)
        # The faster mode by matrix product finds a gap between equal rows.
        gaps = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")  # (n, n)
        gaps.fill_diagonal_(float("inf"))
        scale = rows.norm(dim=1)
        lost = (scale <= near) | (gaps.min(dim=1).values <= near * (1 + scale))
        return [i for i, bad in zip(asked, lost.tolist(), strict=True) if bad]

    return untrained


def _supervision(rendered: Sequence[Rendered]) -> list[Problem]:
    # The first token has nothing before it that could predict it.
    empty = [r.origin for r in rendered if not any(r.supervised[1:])]
    if not rendered:
        return [
            Problem(
                "error", "no rows are left to train on: all are too long for --max-length or the base"
            )
        ]
    if len(empty) == len(rendered):
        return [
            Problem(
                "error",
                "no row has a single token to learn from: check that the replies are not empty and "
                "that --max-length leaves room for them",
                tuple(empty),
            )
        ]
    if empty:
        return [
            Problem(
                "warning",
                f"{counted(empty, 'row has', 'rows have')} no token to learn from ({places(empty)}): "
                "raise --max-length or remove them",
                tuple(empty),
            )
        ]
    return []


def _length(rendered: Sequence[Rendered], max_length: int) -> list[Problem]:
    long = [r.origin for r in rendered if len(r.ids) > max_length]
    if not long:
        return []
    return [
        Problem(
            "warning",
            f"{counted(long, 'row is', 'rows are')} longer than {max_length} tokens ({places(long)}): "
            "raise --max-length, or they are left out",
            tuple(long),
        )
    ]


def _ends(rendered: Sequence[Rendered], template: Template) -> list[Problem]:
    """Rows that never show the model how a reply ends."""
    stops = set(template.stop_ids)
    open_ended = [
        r.origin
        for r in rendered
        if any(r.supervised)
        and not any(s and i in stops for i, s in zip(r.ids, r.supervised, strict=True))
    ]
    if not open_ended:
        return []
    # Windows of a long text rightly end in mid-text; a whole set without an end never stops.
    whole = len(open_ended) == len(rendered)
    return [
        Problem(
            "error" if whole else "warning",
            f"the end of turn ({template.end_of_turn}) is not learnt in {counted(open_ended, 'row')} "
            f"({places(open_ended)}): the model would not stop there; raise --max-length, "
            "or render the rows with this template",
            tuple(open_ended),
        )
    ]


def _begins(rendered: Sequence[Rendered], template: Template) -> list[Problem]:
    bos = template.tokenizer.bos_token_id
    double = [r.origin for r in rendered if bos is not None and r.ids[:2] == (bos, bos)]
    if not double:
        return []
    return [
        Problem(
            "error",
            f"{counted(double, 'row begins', 'rows begin')} with two beginning-of-text "
            f"tokens ({places(double)}): "
            "remove one from the chat template, or do not add it to the text",
            tuple(double),
        )
    ]


def _beyond(rendered: Sequence[Rendered], template: Template, vocabulary: int) -> list[Problem]:
    """Tokens that the base has no embedding for."""
    used = {i for r in rendered for i in r.ids} | set(template.stop_ids)
    told = without_rows(template.tokenizer, used, vocabulary)
    return [Problem("error", told)] if told else []


def without_rows(tokenizer: Any, ids: Iterable[int], vocabulary: int) -> str:
    """What to say of ids that the tokenizer knows and a base of so many embeddings does not; or ''."""
    lost = sorted({i for i in ids if vocabulary <= i < FIRST_ID})  # those beyond are of pictures
    lost = [i for i in lost if tokenizer is not None and i < len(tokenizer)]
    if not lost:
        return ""
    names = ", ".join(str(t) for t in tokenizer.convert_ids_to_tokens(lost[:5]))
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    return (
        f"the tokenizer knows {names}{more}, and the base has {vocabulary:,} embeddings, none for "
        "them: take the tokenizer that belongs to the base, or a base with resized embeddings"
    )


def _trained(rendered: Sequence[Rendered], template: Template, untrained: Untrained) -> list[Problem]:
    from rung.data import chat_template

    structure = set(chat_template.special(template.tokenizer).values())
    used = sorted({i for r in rendered for i in r.ids if i in structure})
    lost = list(untrained(used))
    if not lost:
        return []
    names = ", ".join(str(t) for t in template.tokenizer.convert_ids_to_tokens(lost))
    return [
        Problem(
            "warning",
            f"the base never trained the tokens {names}: take its instruction-tuned variant, or a "
            "method that trains the embeddings",
        )
    ]
