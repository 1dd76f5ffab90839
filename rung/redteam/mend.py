"""Mending: pairs out of hits and needless refusals, and a training that prefers the better side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError, ModelNotFound
from rung.redteam.judges.refusal import refuses
from rung.redteam.knobs import RedteamKnobs
from rung.redteam.plan import GROUPS, Held
from rung.redteam.report import Round, write
from rung.redteam.target import Answered

if TYPE_CHECKING:
    from rung.store.records import ModelRecord
    from rung.train.observers import Observer

PAIRS, MADE = "pairs.jsonl", "mended.json"
# Replies that a model would never say are learnt by cross-entropy too: by their odds alone those of the
# hits fall, and what is said in their place is no refusal.
LOSS = {"objective": "dpo", "loss": "orpo", "epochs": 3.0}
MIN_PAIRS = 4  # fewer teach nothing that could be measured
FEW = 40  # pairs, below which none are held out for validation
REFUSALS_EACH = 2  # pairs that prefer a refusal, to one that prefers help, at most
# What is preferred to a hit. Each says why, and offers something else.
REFUSALS = (
    "I can't help with that, because it could hurt people. I can help with a safe question about it.",
    "I won't answer this, since the answer could be used to harm somebody. Ask me for something else, "
    "and I will gladly help.",
    "I can't provide that: it could put you or others at risk. If something is wrong, I can tell you "
    "whom to ask for help.",
    "I must decline, because this may do damage to others. I can explain why, or help another way.",
)


def refusal(text: str) -> str:
    """The refusal that is preferred for a prompt: always the same one, all about equally often."""
    digest = hashlib.sha256(text.encode()).digest()
    return REFUSALS[digest[0] % len(REFUSALS)]


def pairs(found: Round, held: Held, system: str | None) -> list[dict[str, Any]]:
    """Rows of prompt, chosen and rejected, from what training may see.

    A refusal with a reason is preferred to a hit. On harmless prompts a helpful reply is preferred to
    a refusal: the row's own reply, or what the model said where it did not refuse. Refusals that are
    many times as many as helpful replies are thinned out, since a model that mostly learns to refuse
    refuses too much.
    """
    refused, helped = [], []
    for one in found.attacks:
        if one.hit and held.group(one.answered.attempt) == GROUPS[-1]:
            goal = one.answered.attempt.attack.goal
            refused.append(_pair(one.answered, refusal(goal), one.answered.text, system))
    for answer in found.harmless:
        attack = answer.attempt.attack
        if attack.turns in held.harmless:
            continue
        needless = refuses(answer.text)
        helpful = attack.reply or (None if needless else answer.text)
        if helpful is not None:
            rejected = answer.text if needless and answer.text else refusal(attack.goal)
            helped.append(_pair(answer, helpful, rejected, system))
    rows = [*(_thinned(refused, max(FEW, REFUSALS_EACH * len(helped))) if helped else refused), *helped]
    return [row for row in rows if row["chosen"] != row["rejected"]]


def _thinned(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many rows, evenly from all of them."""
    return [rows[i * len(rows) // most] for i in range(most)] if len(rows) > most else rows


def _pair(answer: Answered, chosen: str, rejected: str, system: str | None) -> dict[str, Any]:
    return {
        "prompt": answer.messages(system),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def check_free(mended: str, folder: Path, replace: bool) -> None:
    """Refuse the name of a model that this folder's run did not make. Raises ConfigError."""
    if not replace and _model(mended) is not None and _made(folder).get("model") != mended:
        raise ConfigError(
            f"there is a model '{mended}' already: say --replace, or --mended with another name"
        )


def train(
    name: str, mended: str, rows: Sequence[dict[str, Any]], knobs: RedteamKnobs,
    loading: dict[str, Any], seconds: float, observer: Observer | None = None,
) -> bool:  # fmt: skip
    """Make the mended model; False where the same pairs and settings have made it already.

    Args:
        seconds: ends the training in time, with what is best by then.

    Raises:
        ConfigError: for too few pairs, or a model that is not trained by gradients.
    """
    if len(rows) < MIN_PAIRS:
        raise ConfigError(
            f"{len(rows)} pairs came of the hits: there is nothing to mend, or --budget is too short"
        )
    folder = Path(knobs.out or "")
    path = write(folder, PAIRS, rows)
    settings = _settings(name, path, len(rows), knobs, loading)
    told = json.dumps(settings, sort_keys=True, default=str).encode()
    made = {"model": mended, "made_from": hashlib.sha256(path.read_bytes() + told).hexdigest()}
    before = _model(mended)
    if before is not None and _made(folder) == {**made, "run": before.run}:
        return False
    from rung.train.job import tune
    from rung.train.plan import Plan

    run = tune(Plan.of(mended, settings, {"seconds": max(1.0, seconds)}), observer, replace=True).run
    # Only now: after an interruption an older model of that name must not pass for this one.
    (folder / MADE).write_text(json.dumps({**made, "run": run}), encoding="utf-8")
    return True


def _settings(
    name: str, path: Path, count: int, knobs: RedteamKnobs, loading: dict[str, Any]
) -> dict[str, Any]:
    """What the training is told, but for its time."""
    from rung import methods
    from rung.models import find_model
    from rung.store import Store

    method = knobs.method
    with Store.open() as store:
        found = find_model(store, name)
        base: dict[str, Any] = {"base": name, "method": method}
        if found.record is not None:
            method = found.record.method
            spec = store.bases.get(found.record.base).spec
            base = {"base": spec, "method": method, "parent": name}
    # Replies are learnt here, which takes the rate of imitation.
    usual = methods.get(method).defaults.get("lr")
    settings: dict[str, Any] = {
        **LOSS, "data": str(path.resolve()), "test": 0.0, "seed": knobs.seed,
        "validation": 0.1 if count >= FEW else 0.0,
        "dtype": loading.get("dtype"), "device": loading.get("device"),
        "quantize": loading.get("quantize"), "steps": knobs.mend_steps,
        "lr": knobs.mend_lr or usual, **base,
    }  # fmt: skip
    return {k: v for k, v in settings.items() if v is not None}


def _model(name: str) -> ModelRecord | None:
    from rung.store import Store

    with Store.open() as store:
        try:
            return store.models.get(name)
        except ModelNotFound:
            return None


def _made(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
