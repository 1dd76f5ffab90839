"""Sweep: every causal architecture of transformers, and every kind of adapter that PEFT writes.

    make sweep                            # minutes; writes docs/architectures.md and docs/adapters.md
    make sweep ARGS="--only llama,mamba"
    make sweep ARGS="--part adapters --real"   # kinds of adapters on SmolLM2-135M

Models are tiny and random. Each architecture is held against transformers: logits of the base alone and
beside a longer row, of every trained method with its adapter moved away from where it starts, and the
gradients of a first step. Each kind of adapter is held against PEFT. What Rung refuses says why.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import sweep_adapters
from bench.sweep_pages import CRASH, DIFFERS, DOCS, SAME, Row, architectures_page, counts_of, told

GRADIENT_TOLERANCE = 1e-3  # of a gradient's length: it gathers rounding from all layers
SECONDS = 120  # of one architecture at most


class _TimeUpError(Exception):
    pass


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _TimeUpError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _quiet() -> None:
    import logging

    from transformers.utils import logging as theirs

    warnings.filterwarnings("ignore")
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.getLogger("rung").setLevel(logging.ERROR)


def _apart(ours: Any, own: Any) -> float:
    return float((ours - own).abs().max() / own.abs().max().clamp(min=1e-9))


# --- architectures --------------------------------------------------------------------------------


def architecture(name: str) -> Row:
    """Hold one architecture against transformers; `made` says why it cannot be made tiny."""
    import torch

    from bench import tiny_architectures
    from rung import methods
    from rung.errors import RungError
    from rung.forward.bank import Bank

    row = Row(name)
    try:
        model = tiny_architectures.model_of(name)
        bare = _reference(model, _ids())
    except _TimeUpError:
        raise
    except Exception as fault:
        row.cells["made"] = f"{type(fault).__name__} {' '.join(str(fault).split())[:90]}"
        return row
    fresh: Callable[[], Any] = lambda: tiny_architectures.model_of(name)  # noqa: E731
    try:
        bank = Bank(model)
    except RungError as fault:
        row.cells["base"] = str(fault)
        return row
    except Exception as fault:
        row.cells["base"] = f"{CRASH} {type(fault).__name__} {str(fault)[:80]}"
        return row
    row.carrier = _carrier(bank)
    row.cells["base"] = _tried(lambda: _base(bank, bare, fresh))
    if bank.findings.causal is not None:
        row.cells |= {m: bank.findings.causal for m in _trained()}
        return row
    for method in _trained():
        torch.manual_seed(0)
        row.cells[method] = _tried(lambda m=method: _method(methods.get(m), bank, fresh))  # type: ignore
    return row


def _trained() -> list[str]:
    """Methods that a training of text makes on the base that is looked at."""
    from rung import methods
    from rung.types import Task

    text = Task("generation", "loss")
    found = {name: methods.get(name) for name in methods.names()}
    return [n for n, m in found.items() if m.trained and not m.own_base and not m.misread(text)]


def _tried(check: Callable[[], str]) -> str:
    from rung.errors import RungError

    try:
        return check()
    except RungError as fault:
        return str(fault)
    except _TimeUpError:
        raise
    except Exception as fault:
        return f"{CRASH} {type(fault).__name__} {' '.join(str(fault).split())[:90]}"


def _ids(count: int = 10, seed: int = 5) -> Any:
    import torch

    return torch.randint(3, 250, (count,), generator=torch.Generator().manual_seed(seed))


def _reference(model: Any, ids: Any, **more: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False, **more).logits[0]


def _carrier(bank: Any) -> str:
    found = bank.findings
    if found.trie is None:
        return "trie"
    if found.together is not None:
        return f"rows one by one: {found.together}"
    return f"padded rows: {found.trie}"


def _ours(bank: Any, slot: int, *rows: Any) -> list[Any]:
    import torch

    from rung.forward.trie import Sequence

    trie = bank.trie([Sequence(tuple(r.tolist()), slot=slot) for r in rows])
    with torch.no_grad():
        hidden = bank.forward(trie)
        return [bank.logits(hidden[torch.from_numpy(r)], [slot] * len(r)) for r in trie.rows]


def _base(bank: Any, bare: Any, fresh: Callable[[], Any]) -> str:
    import torch

    short, long = _ids(), torch.cat([_ids()[:4], _ids(50, 6)])
    whole = _reference(fresh(), long)
    alone = _ours(bank, -1, short)[0]
    beside = _ours(bank, -1, long, short)
    return told(max(_apart(alone, bare), _apart(beside[1], bare), _apart(beside[0], whole)))


def _method(method: Any, bank: Any, fresh: Callable[[], Any]) -> str:
    """Logits with an adapter, and its first gradients, against transformers."""
    from rung.methods.base import Start

    knobs = {k: 4 for k in ("virtual_tokens", "rank") if k in method.Config.__dataclass_fields__}
    if "layers" in method.Config.__dataclass_fields__:
        knobs["layers"] = 1
    config = method.Config(**knobs)
    if (why := method.refusal(bank, config)) is not None:
        return why
    import torch

    generator = torch.Generator().manual_seed(0)
    adapter = method.build(bank, config, Start(generator, [(5, 6, 7, 8)]))
    from rung.forward.dry_run import dry_run

    if (why := dry_run(bank, adapter)) is not None:
        return why
    for tensor in adapter.parameters().values():
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator)
    slot = bank.add(adapter)
    try:
        wanted, reference = _with(adapter, bank, fresh())
        cell = told(_apart(_ours(bank, slot, _ids())[0], wanted.detach()))
        if cell != SAME:
            return cell
        return told(_gradient(adapter, bank, slot, reference), GRADIENT_TOLERANCE).replace(
            DIFFERS, f"{DIFFERS} gradient"
        )
    finally:
        bank.remove(slot)


def _with(adapter: Any, bank: Any, model: Any) -> tuple[Any, dict[str, Any]]:
    """Logits (n, V) of transformers' own model with an adapter built in by plain torch, and the
    adapter's parameters that they can be differentiated by."""
    import torch
    from torch.func import functional_call

    leaves = {n: t.detach().clone().requires_grad_() for n, t in adapter.parameters().items()}
    ids, own = _ids()[None], dict(model.named_parameters(remove_duplicate=False))
    arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    changed: dict[str, Any] = {}
    if adapter.embeddings is not None:
        table = model.get_input_embeddings()
        arguments.pop("input_ids")
        arguments["inputs_embeds"] = torch.cat([leaves["embeddings"][None], table(ids)], 1)
    elif adapter.keys_values is not None:
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config.get_text_config())
        for layer, (k, v) in enumerate(leaves["keys_values"]):
            cache.update(k.transpose(0, 1)[None], v.transpose(0, 1)[None], layer)
        count = leaves["keys_values"].shape[2]
        arguments |= {"past_key_values": cache, "use_cache": True}
        arguments["attention_mask"] = torch.ones(1, count + ids.shape[1], dtype=torch.long)
    for name in adapter.weights:
        for spelled in [n for n, p in own.items() if p is own[name]]:
            changed[spelled] = leaves[f"weights.{name}"]
    for name, op in adapter.linear.items():
        weight, turned = own[f"{name}.weight"], type(bank.modules[name]).__name__ == "Conv1D"
        plain = weight.t() if turned else weight
        mine = {p: leaves[f"linear.{name}.{p}"] for p in op.parameters()}
        if "lora_A" in mine:
            plain = plain + op.scale * mine["lora_B"] @ mine["lora_A"]
        else:
            plain = plain * (mine["ia3_l"] if op.on_input else mine["ia3_l"][:, None])
            bias = own.get(f"{name}.bias")
            if bias is not None and not op.on_input:
                changed[f"{name}.bias"] = bias * mine["ia3_l"]
        changed[f"{name}.weight"] = plain.t() if turned else plain
    out = functional_call(model, changed, (), arguments, tie_weights=False).logits[0]
    return out[-ids.shape[1] :], {"logits": out[-ids.shape[1] :], **leaves}


def _gradient(adapter: Any, bank: Any, slot: int, reference: dict[str, Any]) -> float:
    """How far the gradients of all parameters together are apart, by length."""
    import torch

    from rung.forward.loss import cross_entropy
    from rung.forward.trie import Sequence

    ids, logits = _ids(), reference.pop("logits")
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
    theirs = torch.autograd.grad(loss, list(reference.values()), allow_unused=True)
    parameters = adapter.trainable().parameters()
    trie = bank.trie([Sequence(tuple(ids.tolist()), (False,) + (True,) * (len(ids) - 1), slot)])
    total, _ = cross_entropy(bank, trie, bank.forward(trie), slot)
    ours = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    adapter.trainable(False)
    off = length = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = (torch.zeros(1) if g is None else g for g in (a, b))
        off += float((a - b).square().sum())
        length += float(b.square().sum())
    return (off / max(length, 1e-12)) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="architectures or kinds, with commas between them")
    parser.add_argument("--part", choices=("architectures", "adapters", "all"), default="all")
    parser.add_argument("--real", action="store_true", help="kinds of adapters on SmolLM2-135M")
    parser.add_argument("--kept", type=Path, help="a file of what was found, to go on from")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which to stop, for --kept")
    given = parser.parse_args()
    only = {n for n in given.only.split(",") if n}
    if not given.real:  # which finds its base where earlier ones left it
        os.environ["RUNG_HOME"] = tempfile.mkdtemp(prefix="rung-sweep-")
    _quiet()
    bad = 0
    if given.part != "adapters":
        bad += _sweep_architectures(only, given.kept, given.seconds)
    if given.part != "architectures":
        bad += sweep_adapters.sweep(only, given.real)
    sys.exit(1 if bad else 0)


def _sweep_architectures(only: set[str], kept: Path | None, seconds: float) -> int:
    from bench import tiny_architectures

    before = json.loads(kept.read_text()) if kept and kept.exists() else []
    rows = [Row(**one) for one in before]
    done, began = {r.name for r in rows}, time.monotonic()
    for name in [n for n in tiny_architectures.names() if not only or n in only]:
        if name in done:
            continue
        if time.monotonic() - began > seconds:
            return 0
        try:
            with _limit(SECONDS):
                row = architecture(name)
        except _TimeUpError:
            row = Row(name, cells={"made": f"not done within {SECONDS} s"})
        rows.append(row)
        if kept:
            kept.write_text(json.dumps([asdict(r) for r in rows], indent=1))
        print(name, row.carrier, {k: v[:60] for k, v in row.cells.items() if v != SAME}, flush=True)
    counts = counts_of([r for r in rows if "made" not in r.cells])
    print(f"{len(rows)} architectures, {sum('made' in r.cells for r in rows)} not made: {counts}")
    if not only:
        (DOCS / "architectures.md").write_text(architectures_page(rows), encoding="utf-8")
    return counts["differ"] + counts["traceback"]


if __name__ == "__main__":
    main()
