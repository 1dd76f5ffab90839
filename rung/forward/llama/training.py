"""A decoder layer in two steps of autograd instead of some forty, for bases built like Llama.

Left to autograd, a layer's norms, rotations, activations and sums each pass over memory by
themselves, forward and backward, and keep what they saw. Here everything before attention is one step
and everything behind it another; each keeps only what cannot be had again cheaply and reuses the memory
of its temporaries. LoRA is computed along, the A of projections that read the same input as one.

Whether it gives what the base's own layers give, gradients too, is tried once for each base.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.forward import selfcheck
from rung.forward.attention import TriePlan
from rung.forward.backbone import Backbone, is_sharded
from rung.forward.block_attention import wide
from rung.forward.llama.detect import GROUPS, built_like_llama, plain
from rung.forward.lora import Group, LoraOp, Low
from rung.forward.op import LinearOp
from rung.forward.trie import Trie

# What a slot's adapter does at a module, by the module's name: (operations, own parameters).
Changes = Callable[[int, str], tuple[Sequence[LinearOp], Mapping[str, Tensor]]]

log = logging.getLogger("rung.forward")


class Norm:
    """An RMS norm (arXiv 1910.07467) whose output is computed again rather than kept."""

    def __init__(self, module: Any):
        self.module, self.epsilon = module, module.variance_epsilon

    @property
    def weight(self) -> Tensor:
        """Read when it is needed: that of a sharded layer is whole only while the layer computes."""
        return self.module.weight

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x, self.inverse(x))

    def inverse(self, x: Tensor) -> Tensor:
        """x (T, d) -> 1 / the root of its mean square, (T, 1) in float32."""
        norm = torch.linalg.vector_norm(wide(x), dim=-1, keepdim=True)
        return norm.square_().div_(x.shape[-1]).add_(self.epsilon).rsqrt_()

    def forward(self, x: Tensor, inverse: Tensor) -> Tensor:
        return (wide(x) * inverse).to(x.dtype).mul_(self.weight)

    def backward(self, grad: Tensor, x: Tensor, inverse: Tensor, onto: Tensor | None) -> Tensor:
        """The gradient of x, added to that of what else reads x."""
        grad, own = wide(grad * self.weight), wide(x)
        inner = (grad * own).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        out = grad.mul_(inverse) if onto is None else torch.addcmul(wide(onto), grad, inverse)
        return out.addcmul_(own, inner).to(x.dtype)


class _Before(torch.autograd.Function):
    """x -> queries, keys and values, each (1, heads, T, hd): norm, projections and rotation."""

    @staticmethod
    def forward(ctx: Any, block: LlamaLayer, scales, cos, sin, x, *low):
        group = block.group("attention", scales, low, x.dtype)
        inverse = block.norms[0].inverse(x)
        (q, k, v), hidden = group.forward(block.norms[0].forward(x, inverse))
        q, k, v = (y.view(len(x), -1, block.head_dim) for y in (q, k, v))
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        ctx.save_for_backward(x, inverse, cos, sin, hidden, *low)
        ctx.block, ctx.scales = block, scales
        return tuple(y.transpose(0, 1)[None] for y in (q, k, v))

    @staticmethod
    def backward(ctx: Any, *grads):
        x, inverse, cos, sin, hidden, *low = ctx.saved_tensors
        block, norm = ctx.block, ctx.block.norms[0]
        group = block.group("attention", ctx.scales, low, x.dtype)
        q, k, v = (g[0].transpose(0, 1) for g in grads)
        q, k = _rotate(q, cos, sin, back=True), _rotate(k, cos, sin, back=True)
        seen = None if hidden is None else norm.forward(x, inverse)
        through = ctx.needs_input_grad[4]
        flat = [g.reshape(len(x), -1) for g in (q, k, v)]
        grad, own = group.backward(flat, seen, hidden, through)
        if grad is not None:
            grad = norm.backward(grad, x, inverse, None)
        return None, None, None, None, grad, *own


class _Behind(torch.autograd.Function):
    """x and what attention gave (T, heads * hd) -> the layer's output (1, T, d)."""

    @staticmethod
    def forward(ctx: Any, block: LlamaLayer, scales, x, mixed, *low):
        output, gate, down = block.behind(scales, low, x.dtype)
        (middle,), low_output = output.forward(mixed, onto=x)
        inverse = block.norms[1].inverse(middle)
        (opened, up), low_gate = gate.forward(block.norms[1].forward(middle, inverse))
        (out,), low_down = down.forward(F.silu(opened).mul_(up), onto=middle)
        kept = (mixed, middle, inverse, opened, up, low_output, low_gate, low_down)
        ctx.save_for_backward(*kept, *low)
        ctx.block, ctx.scales = block, scales
        return out.unsqueeze_(0)  # in place: hooks of a sharded layer want no view

    @staticmethod
    def backward(ctx: Any, grad):
        grad = grad[0]
        mixed, middle, inverse, opened, up, *rest = ctx.saved_tensors
        (low_output, low_gate, low_down), low = rest[:3], rest[3:]
        output, gate, down = ctx.block.behind(ctx.scales, low, mixed.dtype)
        norm = ctx.block.norms[1]
        active = F.silu(opened)
        seen = None if low_down is None else active * up
        inner, of_down = down.backward([grad], seen, low_down)
        grad_up = active.mul_(inner)
        grad_opened = torch.ops.aten.silu_backward(inner.mul_(up), opened)
        seen = None if low_gate is None else norm.forward(middle, inverse)
        inner, of_gate = gate.backward([grad_opened, grad_up], seen, low_gate)
        grad = norm.backward(inner, middle, inverse, grad)
        of_mixed, of_output = output.backward([grad], mixed, low_output, ctx.needs_input_grad[3])
        return None, None, grad, of_mixed, *of_output, *of_gate, *of_down


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on (T, heads, hd), or their gradient; cos, sin (T, 1, hd)."""
    half = x.shape[-1] // 2
    first, second = (1, 0) if back else (0, 1)  # which half of the sines, and with which sign
    parts = sin[..., :half], sin[..., half:]
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], parts[first], value=1 if back else -1)
    y[..., half:].addcmul_(x[..., :half], parts[second], value=-1 if back else 1)
    return y


class LlamaLayer:
    """One layer of a base, computed so while gradients are wanted; its own forward else."""

    def __init__(self, backbone: Backbone, changes: Changes, index: int, name: str):
        layer: Any = backbone.modules[name]
        self.backbone, self.changes, self.index, self.layer = backbone, changes, index, layer
        self.own = type(layer).forward.__get__(layer)
        self.head_dim, self.scaling = layer.self_attn.head_dim, layer.self_attn.scaling
        self.norms = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        modules = dict(layer.named_modules())
        self.linear = {g: [modules[n] for n in names] for g, names in GROUPS.items()}
        self.projections = [f"{name}.{n}" for names in GROUPS.values() for n in names]
        self.names = [name, *(f"{name}.{n}" for n in modules if n)]

    def attach(self) -> None:
        self.layer.forward = self.forward

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer's own forward takes and gives, (1, T, d)."""
        ops = self._ops() if torch.is_grad_enabled() and not args else None
        if ops is None or kwargs.get("position_embeddings") is None:
            return self.own(hidden_states, *args, **kwargs)
        cos, sin = (p[0][:, None] for p in kwargs["position_embeddings"])
        scales = [op.scale if op else 0.0 for op in ops]
        low = [t for op in ops for t in ((op.a, op.b) if op else (None, None))]
        x = hidden_states[0]
        q, k, v = _Before.apply(self, scales[:3], cos, sin, x, *low[:6])
        plan: Any = self.backbone.plan
        mixed = plan.attend(self.index, q, k, v, self.scaling).reshape(len(x), -1)
        return _Behind.apply(self, scales[3:], x, mixed, *low[6:])

    def _ops(self) -> list[LoraOp | None] | None:
        """The LoRA of each projection, or None where an adapter does something else in this layer."""
        slots = self.backbone.slots
        if self.backbone.plan is None or slots is None or slots.only is None:
            return None
        found: dict[str, LoraOp] = {}
        for name in self.names:
            ops, weights = self.changes(slots.only, name)
            if weights:
                return None
            for op in ops:
                if type(op) is not LoraOp or name not in self.projections:
                    return None
                found[name] = op
        return [found.get(name) for name in self.projections]

    def group(
        self, name: str, scales: Sequence[float], low: Sequence[Any], dtype: torch.dtype
    ) -> Group:
        pairs = zip(low[::2], low[1::2], scales, strict=True)
        each = [None if a is None else Low(a.to(dtype), b.to(dtype), s) for a, b, s in pairs]
        return Group(self.linear[name], each)

    def behind(self, scales, low, dtype) -> tuple[Group, Group, Group]:
        """The groups behind attention, by the scales and LoRA of all four projections."""
        return (
            self.group("output", scales[:1], low[:2], dtype),
            self.group("gate", scales[1:3], low[2:6], dtype),
            self.group("down", scales[3:], low[6:], dtype),
        )


def attach(backbone: Backbone, changes: Changes) -> bool:
    """Have a base's layers computed so, where it is built for it and the self-check agrees."""
    # A sharded layer's weights are gathered around its forward and its backward.
    if not built_like_llama(backbone, lambda weight: plain(weight) or is_sharded(weight)):
        return False
    layers = [LlamaLayer(backbone, changes, i, n) for i, n in enumerate(backbone.layer_names)]
    fault = selfcheck.fault(lambda: _compare(backbone, layers), backbone.dtype, gradients=True)
    if fault is None:
        return True
    log.warning("the base's own layers are trained through: layers in two steps: %s", fault)
    detach(backbone)
    return False


def detach(backbone: Backbone) -> None:
    """Give a base's layers their own forward back."""
    for name in backbone.layer_names:
        backbone.modules[name].__dict__.pop("forward", None)


def _compare(backbone: Backbone, layers: Sequence[LlamaLayer]) -> list[tuple[Tensor, Tensor]]:
    """Hidden states and the gradient of what is embedded, ours and the base's own; attaches."""
    trie = selfcheck.sample(backbone.vocabulary)
    detach(backbone)
    own = _hidden_and_gradient(backbone, trie)
    for layer in layers:
        layer.attach()
    return list(zip(_hidden_and_gradient(backbone, trie), own, strict=True))


def _hidden_and_gradient(backbone: Backbone, trie: Trie) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        plan = TriePlan(trie)
        entering = backbone.embed(trie.ids, plan.slots).detach().requires_grad_()
        hidden = backbone.run_own(entering, trie.positions.to(backbone.device), plan)
        # Not their squares: a norm makes the sum of those the same for every state.
        weights = torch.arange(hidden.numel(), device=hidden.device).view_as(hidden).sin()
        (grad,) = torch.autograd.grad((hidden.float() * weights).sum(), entering)
    return hidden.detach(), grad
