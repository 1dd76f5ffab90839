"""LoRA and what PEFT keeps under its name: DoRA, biases, PiSSA and OLoRA, embeddings, output layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from rung.errors import ArtefactError
from rung.methods import layers, lora_start
from rung.methods.peft import extras
from rung.methods.peft.base import WAY_OUT, Files, UnreadError, of_pattern
from rung.methods.peft.base import Kind as Base

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.op import LinearOp

MAX_RANK = 1024
CHANGED = "it changes more than what stands behind its call; use PEFT itself"
DEFAULT_RANK = DEFAULT_ALPHA = 8  # PEFT's, for settings that leave them out
# Starts after which the base is what it was; pissa and olora take away what they begin from.
PLAIN_STARTS: tuple[Any, ...] = (True, False, None, "gaussian", "eva", "orthogonal", "true")


class Kind(Base):
    peft_type = "LORA"
    method: ClassVar[str | None] = "lora"
    read_keys = frozenset(
        {
            "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights",
            "trainable_token_indices", "use_dora", "lora_bias", "alora_invocation_tokens",
        }
    )  # fmt: skip
    passed = frozenset(
        {
            "lora_dropout", "megatron_core", "loftq_config", "eva_config", "corda_config",
            "lora_ga_config", "qalora_group_size", "runtime_config",
        }
    )  # fmt: skip

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter

        _refuse_starts(files.settings)
        adapter = Adapter(activation=_activation(files.settings))
        ops: dict[str, LinearOp] = {}
        for name in files.ending(".lora_A.weight"):
            ops[name] = self._op(files, name)
        for name in files.ending(".lora_embedding_A"):
            _embedding(files, adapter, name)
        alone = [n for n in files.tensors if ".lora_" in n]
        if alone:
            raise ArtefactError(f"{alone[0]} has no lora_A beside it: fetch or train the adapter again")
        if not ops and not adapter.weights:
            raise ArtefactError("the adapter file holds no lora_A tensors")
        adapter.linear = ops
        _head(files, adapter)
        if adapter.activation and adapter.weights:
            raise ArtefactError(
                f"activated LoRA on embeddings or output layer is not served: {CHANGED}"
            )
        return adapter

    def _op(self, files: Files, name: str) -> LinearOp:
        from rung.forward.dora import DoraOp
        from rung.forward.lora import BiasedLoraOp, LoraOp

        module, d_in, d_out = files.module(name)
        a = files.take(f"{name}.lora_A.weight", (-1, d_in))
        if len(a) > MAX_RANK:
            raise ArtefactError(f"{name} has rank {len(a)}, above the limit of {MAX_RANK}")
        _require_rank(files.settings, name, len(a))
        b = files.take(f"{name}.lora_B.weight", (d_out, len(a)))
        scale = scale_of(files.settings, name, len(a))
        biased = f"{name}.lora_B.bias" in files.all
        if files.settings.get("use_dora"):
            if biased:
                raise UnreadError(f"DoRA with lora_bias: {WAY_OUT}")
            key = f"{name}.lora_magnitude_vector"
            key = key if key in files.all else f"{key}.weight"
            length = files.take(key, (d_out,))
            return DoraOp(a, b, scale, length, module, layers.transposed(module))
        start = files.settings.get("init_lora_weights", True)
        if isinstance(start, str) and start.lower() in lora_start.FORMED:
            a, b = _less_its_start(a, b, module, start.lower(), scale)
        if biased:
            return BiasedLoraOp(a, b, scale, files.take(f"{name}.lora_B.bias", (d_out,)))
        return LoraOp(a, b, scale)


def _activation(settings: dict[str, Any]) -> tuple[int, ...]:
    """The tokens from which on activated LoRA acts (arXiv 2504.12397).

    Raises:
        ArtefactError: for what changes the base in front of the call too, or PEFT has no meaning for.
    """
    told = settings.get("alora_invocation_tokens")
    if not told:
        return ()
    if not isinstance(told, list) or not all(type(i) is int and i >= 0 for i in told):
        raise ArtefactError("alora_invocation_tokens is no list of token ids")
    more = ("use_dora", "lora_bias", "trainable_token_indices", "modules_to_save")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() in lora_start.FORMED:
        raise ArtefactError(f"activated LoRA that begins as {start} is not served: {CHANGED}")
    if mixed := [key for key in more if settings.get(key)]:
        raise ArtefactError(f"activated LoRA with {mixed[0]} is not served: {CHANGED}")
    if settings.get("bias", "none") != "none":
        raise ArtefactError(f"activated LoRA with biases is not served: {CHANGED}")
    return tuple(told)


def scale_of(settings: dict[str, Any], name: str, rank: int) -> float:
    """What a module's product is multiplied by."""
    alpha = of_pattern(settings.get("alpha_pattern"), name, settings.get("lora_alpha", DEFAULT_ALPHA))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _require_rank(settings: dict[str, Any], name: str, rank: int) -> None:
    told = of_pattern(settings.get("rank_pattern"), name, settings.get("r", DEFAULT_RANK))
    if told != rank:
        raise ArtefactError(f"{name} has rank {rank} in the file, and the settings say {told}")


def _refuse_starts(settings: dict[str, Any]) -> None:
    start = settings.get("init_lora_weights", True)
    formed = isinstance(start, str) and start.lower() in lora_start.FORMED
    if formed and settings.get("use_dora"):
        raise UnreadError(f"this adapter is DoRA that begins as {start}: {WAY_OUT}")
    if formed or start in PLAIN_STARTS:
        return
    if str(start).startswith("pissa_niter"):
        raise ArtefactError(
            f"this adapter began as {start}, by an approximation that each run makes otherwise: save "
            "it with path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )
    raise UnreadError(f"this adapter began as {start}, which changes the base: {WAY_OUT}")


def _less_its_start(
    a: Tensor, b: Tensor, module: Any, start: str, scale: float
) -> tuple[Tensor, Tensor]:
    """LoRA of the base as it is, for one of a base that its main directions were taken out of: what was
    trained less what it began from, as PEFT forms it (arXiv 2404.02948, 2406.01775)."""
    import torch

    try:
        first_a, first_b = lora_start.formed(start, module, len(a), scale)
    except ValueError as fault:
        raise UnreadError(f"{fault}: {WAY_OUT}") from None
    return torch.cat([a, first_a.to(a.device)]), torch.cat([b, -first_b.to(b.device)], 1)


def _embedding(files: Files, adapter: Adapter, name: str) -> None:
    """LoRA on the embeddings, as embeddings of its own: the product has as many rows as they have."""
    own = dict(files.bank.model.named_parameters(remove_duplicate=False))
    weight = own.get(f"{name}.weight")
    if weight is None or files.settings.get("use_dora") or files.settings.get("lora_bias"):
        raise UnreadError(f"LoRA of this kind on {name}: {WAY_OUT}")
    files.require_target(name)
    rows, width = weight.shape
    a = files.take(f"{name}.lora_embedding_A", (-1, rows))
    b = files.take(f"{name}.lora_embedding_B", (width, len(a)))
    scale = scale_of(files.settings, name, len(a))
    base = weight.detach().float()
    saved = f"{name}.base_layer.weight"
    if saved in files.all:
        base = files.take(saved, (rows, width))
        if not base.equal(weight.detach().float().cpu()):
            raise UnreadError(f"{name} was changed beside its LoRA: {WAY_OUT}")
    extras.put(files, adapter, f"{name}.weight", base + scale * (b @ a).t().to(base.device))


def _head(files: Files, adapter: Adapter) -> None:
    """LoRA on the output layer, as an output layer of its own: logits are formed in chunks there."""
    from rung.forward.lora import LoraOp

    head: Any = files.bank.model.get_output_embeddings()
    own: Any = getattr(head, "weight", None)
    for name, op in list(adapter.linear.items()):
        if files.bank.modules[name] is not head:
            continue
        if type(op) is not LoraOp:
            raise UnreadError(f"LoRA of this kind on {name}: {WAY_OUT}")
        saved = f"{name}.base_layer.weight"
        if saved in files.tensors and not files.take(saved, tuple(own.shape)).equal(
            own.detach().float().cpu()
        ):
            raise UnreadError(f"{name} was changed beside its LoRA: {WAY_OUT}")
        weight, _ = op.merged(own.detach().float(), None)
        del adapter.linear[name]  # type: ignore[attr-defined]
        extras.put(files, adapter, f"{name}.weight", weight)
