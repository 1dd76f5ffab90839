"""What every token of a row sees, apart from what each sees of the row: two attentions, joined.

Keys that stand in front of a row of one slot need neither a mask nor a copy for each block of the row;
all queries meet them in one call. The two results are weighed by their sums of exponentials, as between
the blocks of FlashAttention (arXiv 2205.14135). Only where no gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.forward.block_attention import Alone, Flash, Heads, Several, by_token

MIN_KEYS = 32  # in front, from which on a second call pays


def attend(
    q: Tensor,
    own: tuple[Tensor, Tensor],
    front: tuple[Tensor, Tensor],
    scaling: float,
    calls: Sequence[Alone | Several],
    masks: Sequence[Tensor | None],
) -> Tensor:
    """q (1, H, T, hd); keys and values of the row (1, Hkv, T, hd), in front (1, Hkv, P, hd) -> as q.

    Args:
        calls, masks: of the row alone.
    """
    heads = Heads.of(q, own[0])
    of_row, row_sums = _row(q, own, heads, scaling, calls, masks)
    of_front, sums = _front(q, front, heads, scaling)
    share = torch.sigmoid(sums - row_sums).unsqueeze(-1)  # (T, H, 1), of what is in front
    return of_row.lerp_(of_front, share.to(q.dtype)).transpose(0, 1)[None]


def _front(q, front, heads: Heads, scaling) -> tuple[Tensor, Tensor]:
    """What the keys in front give, (T, H, hd), and the logarithms of the sums, (T, H)."""
    queries = q.unflatten(1, heads)[0].transpose(0, 1)  # (groups, kv_heads, T, hd), nothing copied
    keys, values = (x.expand(heads.groups, -1, -1, -1) for x in front)
    out, sums = Flash.forward(queries, keys, values, None, scaling, causal=False)
    return out.permute(2, 1, 0, 3).flatten(1, 2), sums.permute(2, 1, 0).flatten(1)


def _row(q, own, heads: Heads, scaling, calls, masks) -> tuple[Tensor, Tensor]:
    """What the row alone gives, (T, H, hd), and the logarithms of its sums, (T, H)."""
    rows = [by_token(x) for x in (q, *own)]
    length, count = len(rows[0]), q.shape[1]
    out = torch.empty_like(rows[0])
    sums = out.new_empty(length, count, dtype=torch.promote_types(q.dtype, torch.float32))
    for call, mask in zip(calls, masks, strict=True):
        keys, values = (call.keys(x, heads) for x in rows[1:])
        part, logs = Flash.forward(call.queries(rows[0], heads), keys, values, mask, scaling)
        call.put(part, out)
        call.put(logs.unsqueeze(-1), sums)
    return out.view(length, count, -1), sums
