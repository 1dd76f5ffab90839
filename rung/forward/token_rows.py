"""Token rows: an adapter's own rows of the embeddings and of the output layer, for some tokens.

They stand in place of the base's rows where it has rows of these ids, and follow behind its last one
where it has none. The bare base and other adapters of a batch have the base's vocabulary: past it their
logits are -inf, which no softmax counts and nobody draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.forward.backbone import Backbone, Head, is_sharded
from rung.forward.slots import Slots

NO_REFERENCE = (
    "the bare base has no rows of the added tokens and cannot be the reference: leave --reference out, "
    "which takes the model that training starts from"
)


@dataclass(frozen=True)
class TokenRows:
    """Rows of N tokens.

    Attributes:
        ids: (N,), ascending.
        embeddings: (N, d).
        output: (N, d) of the output layer; the same tensor where the base ties it to its embeddings.
    """

    ids: tuple[int, ...]
    embeddings: Tensor
    output: Tensor

    @property
    def tied(self) -> bool:
        return self.output is self.embeddings

    @property
    def end(self) -> int:
        """One more than the largest id."""
        return self.ids[-1] + 1

    def parameters(self) -> dict[str, Tensor]:
        """The tensors by name, a tied one once."""
        own = {"embeddings": self.embeddings}
        return own if self.tied else {**own, "output": self.output}

    @classmethod
    def fresh(
        cls, backbone: Backbone, ids: Sequence[int], before: TokenRows | None = None
    ) -> TokenRows:
        """Rows for training to begin from: the mean of the base's.

        transformers' `resize_token_embeddings` draws from a normal distribution around that mean, with
        1e-9 of the rows' covariance; the mean itself is the same within rounding and needs no draw.

        Args:
            before: rows that are there already and are kept.
        """
        known = {} if before is None else {i: n for n, i in enumerate(before.ids)}
        weights = [backbone.model.get_input_embeddings().weight]
        weights += [] if tied(backbone) else [backbone.model.get_output_embeddings().weight]
        made = []
        for n, weight in enumerate(weights):
            mean = weight.detach().float().mean(0)
            kept = None if before is None else (before.embeddings, before.output)[n].detach()
            made.append(torch.stack([mean if i not in known else kept[known[i]] for i in ids]))  # type: ignore[index]
        return cls(tuple(ids), made[0], made[-1])

    def check(self, backbone: Backbone) -> str | None:
        """Say why a base cannot be computed with these rows; None where it can."""
        if why := misfit(backbone):
            return why
        shapes = {tuple(self.embeddings.shape), tuple(self.output.shape)}
        if shapes != {(len(self.ids), backbone.width)}:
            return f"rows of tokens are {self.embeddings.shape[-1]} wide, the base's {backbone.width}"
        beyond = [i for i in self.ids if i >= backbone.vocabulary]
        follow = beyond == list(range(backbone.vocabulary, backbone.vocabulary + len(beyond)))
        if list(self.ids) != sorted(set(self.ids)) or self.ids[0] < 0 or not follow:
            return f"added tokens do not follow upon the base's {backbone.vocabulary} rows"
        return None

    def joined(self, raw: Tensor, hidden: Tensor) -> Tensor:
        """Put these tokens' logits into those of the base's rows: (n, V) and (n, d) -> (n, W)."""
        return join(raw, F.linear(hidden, self.output.to(hidden.dtype)), self.index(raw.device))

    def index(self, device: torch.device) -> Tensor:
        """The ids as a tensor (N,)."""
        return torch.tensor(self.ids, device=device)


def lacking_rows(backbone: Backbone, rows: TokenRows | None) -> TokenRows | None:
    """The rows of those tokens that the bare base has none for, as training begins with them; None
    where there are no such tokens."""
    lacking = [i for i in (rows.ids if rows else ()) if i >= backbone.vocabulary]
    return TokenRows.fresh(backbone, lacking) if lacking else None


def tied(backbone: Backbone) -> bool:
    """Whether the output layer is the table of embeddings."""
    model = backbone.model
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def misfit(backbone: Backbone) -> str | None:
    """Say why a base takes no rows of tokens; None where it does."""
    found = backbone.findings
    if found.embeddings is not None or found.virtual is not None:
        return f"this base takes no embeddings of added tokens: {found.embeddings or found.virtual}"
    if found.head is not None:
        return f"this base's output layer takes no added tokens: {found.head}"
    if is_sharded(backbone.model.get_input_embeddings().weight):
        return "a sharded base takes no added tokens: leave --shard out"
    if getattr(backbone.model.get_output_embeddings(), "bias", None) is not None:
        return "this base's output layer has biases, of which added tokens have none"
    if scale_of(backbone) is None:
        return "this base does more to embed a token than take its row"
    return None


@torch.no_grad()
def scale_of(backbone: Backbone) -> float | None:
    """What a token's row is multiplied by to embed it; None where the base does more than that."""
    table = backbone.model.get_input_embeddings()
    numbers = [(100 + 37 * i) % backbone.vocabulary for i in range(4)]
    ids = torch.tensor(numbers, device=backbone.device)
    rows, out = table.weight[ids].float(), type(table).forward(table, ids).float()  # past its seams
    if out.shape != rows.shape or bool(out.equal(rows)):
        return 1.0 if out.shape == rows.shape else None
    scale = float((out * rows).sum() / (rows * rows).sum())
    return scale if bool(torch.allclose(out, scale * rows, rtol=2**-7, atol=1e-6)) else None


def join(raw: Tensor, own: Tensor, ids: Tensor) -> Tensor:
    """Put columns (n, N) of ids into logits: (n, V) -> (n, W), W the larger of V and the last id + 1.

    Columns beyond V are all among the ids.
    """
    beyond = int((ids >= raw.shape[1]).sum())
    if beyond:
        raw = torch.cat([raw, raw.new_empty(len(raw), beyond)], 1)
    return raw.index_copy(1, ids, own.to(raw.dtype))


def part(grad: Tensor, vocabulary: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Take the gradient of `join`'s result apart, (n, W) -> that of (n, V) and that of (n, N)."""
    own = grad[:, ids]
    return grad.index_fill(1, ids, 0)[:, :vocabulary], own


def embed(
    held: Mapping[int, TokenRows], ids: Tensor, slots: Slots,
    words: Callable[[Tensor, Slots], Tensor], scale: float,
) -> Tensor:  # fmt: skip
    """Embed ids (T,), some of which have rows of their slot's own -> (T, d).

    Args:
        held: by the slots that occur, one at least. words: embeds ids of the base's vocabulary.
        scale: what the base multiplies its rows by.
    """
    numbers = ids.cpu().numpy()
    found = []
    for slot, rows in held.items():
        at = np.nonzero((slots.of_token == slot) & np.isin(numbers, rows.ids))[0]
        if len(at):
            which = torch.from_numpy(np.searchsorted(rows.ids, numbers[at]))
            found.append((torch.from_numpy(at), rows.embeddings, which))
    if not found:
        return words(ids, slots)
    every = torch.cat([at for at, _, _ in found]).to(ids.device)
    out = words(ids.index_fill(0, every, 0), slots)
    for place, table, which in found:
        own = table[which.to(table.device)] * scale
        out = out.index_copy(0, place.to(out.device), own.to(out.device, out.dtype))
    return out


def widen(
    held: Mapping[int, TokenRows], logits: Tensor, hidden: Tensor, slots: Slots, head: Head
) -> Tensor:
    """Give logits (N, V) the columns of added tokens -> (N, W), -inf for slots without them.

    Args:
        held: by the slots that occur, one at least. head: what the base does to a product.
    """
    beyond = max(0, max(rows.end for rows in held.values()) - logits.shape[1])
    out = torch.cat([logits, logits.new_full((len(logits), beyond), float("-inf"))], 1)
    for slot, rows in held.items():
        at = torch.from_numpy(np.nonzero(slots.of_token == slot)[0]).to(out.device)
        own = head.shaped(F.linear(hidden[at], rows.output.to(hidden.dtype)))
        out = out.index_put((at[:, None], rows.index(out.device)[None]), own.to(out.dtype))
    return out
