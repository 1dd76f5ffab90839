"""Sampler: draws tokens for a whole batch: penalties, constraints, temperature, and what is cut off.

A request's randomness is its own: one exponential number per vocabulary entry and token, a hash of the
request's seed, the token's place in the answer and the entry; the token is the argmax of
`probability / number` (the Gumbel trick). So an answer does not depend on what else is in the batch,
and numbers are needed of those entries alone that may be drawn. Inverting the cumulative distribution
with one uniform number would be cheaper still but hangs on the last digit: rounding that moves the
borders of 49,000 tokens by 1e-6 changes every draw that falls among the improbable ones.

The order is that of transformers: penalties and bias change the logits, a constraint removes what may
not come, temperature, then top_k, top_p and min_p, each on what the one before has left. Told
log-probabilities are those of the model, before all of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.engine.constraint import Constraint
from rung.engine.patterns import ConstraintError
from rung.types import Decoding

GREEDY_BELOW = 1e-5  # temperature; the scores would overflow before they differ from greedy
NUCLEUS = 512  # candidates looked at for top-p before a full sort

Told = tuple[float, tuple[tuple[int, float], ...]]  # a log-probability, and the likeliest ones


class Draw:
    """Sampling state of one request.

    Args:
        decoding: how. prompt: ids that `repetition_penalty` looks at.
        constraint: what the answer must look like.
        logprobs: so many of the likeliest tokens are told; None tells nothing.
        as_drawn: what is told is the distribution that tokens are drawn from.
        vocabulary: number of tokens that the model has; others of its batch may have more, so logits
            may be wider. None: as many as the logits.
    """

    def __init__(
        self,
        decoding: Decoding,
        prompt: Sequence[int] = (),
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        as_drawn: bool = False,
        vocabulary: int | None = None,
    ):
        self.decoding, self.logprobs, self.vocabulary = decoding, logprobs, vocabulary
        self.greedy = decoding.temperature < GREEDY_BELOW
        self.matcher = None if constraint is None else constraint.begin()
        self.penalises = bool(
            decoding.presence_penalty or decoding.frequency_penalty or decoding.repetition_penalty != 1
        )
        # Without any of these the two distributions are one.
        changed = decoding.temperature != 1 or cuts(decoding) or self.penalises
        self.as_drawn = as_drawn and bool(changed or decoding.logit_bias or constraint)
        self.plain = self.greedy and not self.penalises and not decoding.logit_bias
        self._prompt = prompt
        self._counts: Tensor | None = None  # (2, V): how often in the answer; whether anywhere
        self._seed = secrets.randbits(63) if decoding.seed is None else decoding.seed
        self._drawn = 0

    def next_key(self) -> tuple[int, int]:
        """What the next token's `exponentials` are made from, two signed numbers of 32 bits."""
        self._drawn += 1
        mixed = _splitmix(_splitmix(self._seed) + self._drawn)
        low, high = mixed & 0xFFFFFFFF, mixed >> 32
        return low - (low >> 31 << 32), high - (high >> 31 << 32)

    def _own(self, size: int) -> int:
        return size if self.vocabulary is None else min(size, self.vocabulary)

    def counts(self, size: int) -> Tensor:
        """Count each token in the answer, and say whether prompt or answer hold it: (2, size)."""
        if self._counts is None:
            self._counts = torch.zeros(2, self._own(size))
            self._counts[1, torch.tensor(list(self._prompt), dtype=torch.long)] = 1
        return F.pad(self._counts, (0, size - self._counts.shape[1]))

    def take(self, token: int) -> None:
        """Remember a drawn token.

        Raises:
            ConstraintError: when the constraint cannot be followed any further.
        """
        if self._counts is not None:
            self._counts[0, token] += 1
            self._counts[1, token] = 1
        if self.matcher is not None:
            self.matcher.consume_token(token)
            self._check()

    @property
    def fulfilled(self) -> bool:
        """Whether a constraint allows nothing more."""
        return self.matcher is not None and self.matcher.is_stopped()

    def allowed(self, size: int) -> Tensor:
        """Mark what the constraint lets come next: (size,) of bool."""
        assert self.matcher is not None
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        found = torch.from_numpy(np.unpackbits(bits, count=size, bitorder="little")).view(torch.bool)
        return F.pad(found, (0, size - len(found)))

    def _check(self) -> None:
        if self.matcher is not None and self.matcher.is_error():
            raise ConstraintError(
                "the answer's constraint needs more work per token than the server allows: simplify it"
            )


def draw(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Draw a token for each row: (B, V) and each row's way of drawing -> (B,) token ids.

    A row whose constraint cannot be followed draws anything; its `take` then raises.
    """
    adjusted = adjust(logits, draws)
    rows = [i for i, d in enumerate(draws) if not d.greedy]
    if len(rows) == len(draws):
        return _sample(adjusted.float(), draws)
    ids = likeliest_of(adjusted)
    if rows:
        at = torch.tensor(rows, device=logits.device)
        ids[at] = _sample(adjusted[at].float(), [draws[i] for i in rows])
    return ids


def adjust(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Apply penalties, bias and constraints: (B, V) -> (B, V); the input stays as it is."""
    out = logits
    if any(d.penalises or d.decoding.logit_bias or d.matcher is not None for d in draws):
        out = logits.clone()
        _penalise(out, draws)
        _bias(out, draws)
        _constrain(out, draws)
    return out


def _penalise(out: Tensor, draws: Sequence[Draw]) -> None:
    rows = [i for i, d in enumerate(draws) if d.penalises]
    if not rows:
        return
    chosen = [draws[i] for i in rows]
    at = torch.tensor(rows, device=out.device)
    counts = torch.stack([d.counts(out.shape[1]) for d in chosen]).to(out.device)  # (n, 2, V)
    drawn, seen = counts[:, 0], counts[:, 1] > 0
    repetition = _column((d.decoding.repetition_penalty for d in chosen), out)
    values = out[at].float()
    values = torch.where(
        seen, torch.where(values > 0, values / repetition, values * repetition), values
    )
    values -= _column((d.decoding.frequency_penalty for d in chosen), out) * drawn
    values -= _column((d.decoding.presence_penalty for d in chosen), out) * (drawn > 0)
    out[at] = values.to(out.dtype)


def _bias(out: Tensor, draws: Sequence[Draw]) -> None:
    found = [(i, t, b) for i, d in enumerate(draws) for t, b in d.decoding.logit_bias.items()]
    if found:
        rows, tokens, biases = zip(*found, strict=True)
        where = torch.tensor(rows, device=out.device), torch.tensor(tokens, device=out.device)
        out.index_put_(where, torch.tensor(biases, dtype=out.dtype, device=out.device), accumulate=True)


def _constrain(out: Tensor, draws: Sequence[Draw]) -> None:
    for i, d in enumerate(draws):
        if d.matcher is not None:
            try:
                out[i].masked_fill_(~d.allowed(out.shape[1]).to(out.device), float("-inf"))
            except ConstraintError:
                continue  # `take` says it once more, where only this request hears it


def cuts(decoding: Decoding) -> bool:
    """Whether some tokens cannot be drawn at all."""
    return decoding.top_k > 0 or decoding.top_p < 1 or decoding.min_p > 0


@dataclass(frozen=True)
class _Limits:
    """What top_k, top_p and min_p say of each row, (B,) each."""

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> _Limits:
        ways = [d.decoding for d in draws]
        return cls(
            torch.tensor([w.top_k for w in ways], device=device),
            torch.tensor([w.top_p for w in ways], dtype=torch.float32, device=device),
            torch.tensor([w.min_p for w in ways], dtype=torch.float32, device=device),
        )

    def __getitem__(self, rows: Tensor) -> _Limits:
        return _Limits(self.top_k[rows], self.top_p[rows], self.min_p[rows])

    @property
    def leave_few(self) -> Tensor:
        """Whether the likeliest candidates of a row are, as a rule, all that is left of it: (B,)."""
        return ((self.top_k == 0) & (self.top_p < 1)) | ((self.top_k > 0) & (self.top_k < NUCLEUS))

    def narrow(self, probabilities: Tensor, whole: Tensor | None = None) -> Tensor:
        return narrow(probabilities, self.top_k, self.top_p, self.min_p, whole)


def _tempered(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    return torch.softmax(logits / _column((d.decoding.temperature for d in draws), logits), -1)


def _probabilities(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """What tokens are drawn by, (B, V); rows need not sum to 1."""
    return _Limits.of(draws, logits.device).narrow(_tempered(logits, draws))


def _sample(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    probabilities, limits = _tempered(logits, draws), _Limits.of(draws, logits.device)
    keys = torch.tensor([d.next_key() for d in draws], dtype=torch.int32, device=logits.device)
    ids = torch.empty(len(draws), dtype=torch.long, device=logits.device)
    left = torch.ones_like(ids, dtype=torch.bool)
    few = limits.leave_few.nonzero()[:, 0]
    if len(few) and probabilities.shape[1] > NUCLEUS:
        found, sure = _among_likeliest(probabilities[few], keys[few], limits[few])
        ids[few], left[few] = found, ~sure
    if bool(left.any()):
        ids[left] = _among_all(probabilities[left], keys[left], limits[left])
    return ids


def _among_likeliest(probabilities: Tensor, keys: Tensor, limits: _Limits) -> tuple[Tensor, Tensor]:
    """Draw among the likeliest NUCLEUS tokens (B,), and whether limits leave no others: (B,)."""
    best, tokens = probabilities.topk(NUCLEUS, -1)
    kept = limits.narrow(best, probabilities.sum(-1))
    drawn = likeliest_of(kept / exponentials(keys, tokens.int()))
    return tokens.gather(1, drawn[:, None])[:, 0], kept[:, -1] == 0


def _among_all(probabilities: Tensor, keys: Tensor, limits: _Limits) -> Tensor:
    """Draw among all tokens, (B,)."""
    every = torch.arange(probabilities.shape[1], dtype=torch.int32, device=probabilities.device)
    # On a CPU row by row, so that what is computed stays in a core's cache.
    parts = keys.split(1 if keys.device.type == "cpu" else len(keys))
    noise = torch.cat([exponentials(part, every[None]) for part in parts])
    return likeliest_of(limits.narrow(probabilities) / noise)


def exponentials(keys: Tensor, tokens: Tensor) -> Tensor:
    """Exponential numbers, each a function of its row's key and its token alone.

    The hash is MurmurHash3's finalizer, with a key in front and one between its rounds.

    Args:
        keys: (B, 2) int32. tokens: (B, n) int32.

    Returns:
        (B, n) float32, above 0.
    """
    x = tokens + keys[:, :1]
    x ^= x >> 16 & 0xFFFF
    x *= -0x7A143595
    x ^= keys[:, 1:]
    x ^= x >> 13 & 0x7FFFF
    x *= -0x3D4D51CB
    x ^= x >> 16 & 0xFFFF
    # Of 31 bits; small numbers, which decide for improbable tokens, keep all their digits.
    uniform = (x & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    return uniform.neg_().log1p_().neg_()


def _splitmix(number: int) -> int:
    """Mix the bits of a number: SplitMix64 (Steele et al. 2014), 64 bits unsigned."""
    mask = (1 << 64) - 1
    mixed = number * 0x9E3779B97F4A7C15 & mask
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
    return mixed ^ mixed >> 31


def likeliest_of(scores: Tensor) -> Tensor:
    """Find where each row is largest: (B, V) -> (B,)."""
    # On a CPU `max` takes a fifth of the time of `argmax`.
    return scores.max(-1).indices


def _column(numbers: Iterable[float], like: Tensor) -> Tensor:
    """Make a column (n, 1) of float32."""
    return torch.tensor(list(numbers), dtype=torch.float32, device=like.device)[:, None]


def narrow(
    probabilities: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, whole: Tensor | None = None
) -> Tensor:
    """Zero what top_k, top_p and min_p cut off, row by row: (B, V) and three (B,) -> (B, V).

    Args:
        whole: the sum of each row (B,), where the likeliest of its tokens are all that is given.
    """
    counted = (top_k > 0) & (top_k < probabilities.shape[1])
    if bool(counted.any()):
        probabilities[counted] = likeliest(probabilities[counted], top_k[counted])
    cut = top_p < 1
    if bool(cut.any()):
        total = probabilities.sum(-1)
        total = total if whole is None else torch.where(counted, total, whole)
        probabilities[cut] = nucleus(probabilities[cut] / total[cut, None], top_p[cut])
    if bool((min_p > 0).any()):
        least = probabilities.amax(-1) * min_p
        probabilities = torch.where(probabilities >= least[:, None], probabilities, 0.0)
    return probabilities


def likeliest(probabilities: Tensor, top_k: Tensor) -> Tensor:
    """Zero all but the `top_k` most probable tokens; ties with the last one are kept."""
    best = probabilities.topk(int(top_k.max()), -1).values
    least = best.gather(1, top_k[:, None] - 1)
    return torch.where(probabilities >= least, probabilities, 0.0)


def nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but the smallest set of most probable tokens that reaches `top_p`.

    Ties with the last one kept are kept too. (B, V) and (B,) -> (B, V).
    Source: Holtzman et al., arXiv 1904.09751.
    """
    vocabulary = probabilities.shape[1]
    best = probabilities.topk(min(NUCLEUS, vocabulary), -1).values
    if vocabulary > NUCLEUS and bool((best.sum(-1) < top_p).any()):
        best = probabilities.sort(-1, descending=True).values
    before = best.cumsum(-1) - best  # mass in front of each candidate
    kept = (before < top_p[:, None]).sum(-1).clamp(min=1)
    least = best.gather(1, kept[:, None] - 1)
    return torch.where(probabilities >= least, probabilities, 0.0)


def tell(logits: Tensor, ids: Tensor, wanted: Sequence[int | None]) -> list[Told | None]:
    """Compute log-probabilities of drawn tokens under the model's own distribution.

    A token's and those of the likeliest come out of one computation, so that the likeliest token's own
    is exactly the largest of them.

    Args:
        logits: (N, V). ids: (N,). wanted: how many of the likeliest each row
            wants; None: nothing.
    """
    told: list[Told | None] = [None] * len(wanted)
    rows = [i for i, n in enumerate(wanted) if n is not None]
    if not rows:
        return told
    at = torch.tensor(rows, device=logits.device)
    own = torch.log_softmax(logits[at].float(), -1)
    for row, one in zip(rows, _told(own, ids[at], [wanted[r] or 0 for r in rows]), strict=True):
        told[row] = one
    return told


def _told(own: Tensor, ids: Tensor, wanted: Sequence[int]) -> list[Told]:
    """Of log-probabilities (n, V), those of the drawn tokens (n,) and of the likeliest."""
    most = min(max(wanted), own.shape[1])
    values, tokens = (x.tolist() for x in own.topk(most, -1))
    drawn = own.gather(1, ids[:, None])[:, 0].tolist()
    return [
        (drawn[i], tuple(zip(tokens[i][:n], values[i][:n], strict=True))) for i, n in enumerate(wanted)
    ]


def tell_drawn(logits: Tensor, ids: Tensor, draws: Sequence[Draw]) -> list[Told | None]:
    """As `tell`, and of those that want it the distribution that they draw from.

    Args:
        logits: (N, V), as `draw` got them, before the drawn tokens were taken.
    """
    told = tell(logits, ids, [None if d.as_drawn else d.logprobs for d in draws])
    rows = [i for i, d in enumerate(draws) if d.as_drawn and d.logprobs is not None]
    if not rows:
        return told
    chosen = [draws[i] for i in rows]
    at = torch.tensor(rows, device=logits.device)
    adjusted = adjust(logits[at], chosen).float()
    own = torch.full_like(adjusted, float("-inf"))
    for i, one in enumerate(chosen):
        if one.greedy:
            own[i, ids[rows[i]]] = 0.0
        else:
            kept = _probabilities(adjusted[i : i + 1], [one])[0]
            own[i] = (kept / kept.sum()).log()
    found = _told(own, ids[at], [d.logprobs or 0 for d in chosen])
    for row, each in zip(rows, found, strict=True):
        told[row] = each
    return told
