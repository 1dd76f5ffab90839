"""The sweep's rows, and the pages of the docs that they make."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
TOLERANCE = 1e-4  # of the largest logit
SAME, DIFFERS, CRASH = "same", "DIFFERS", "TRACEBACK"


def told(apart: float, tolerance: float = TOLERANCE) -> str:
    """A cell: whether a difference is rounding."""
    return SAME if apart <= tolerance else f"{DIFFERS} {apart:.1e}"


@dataclass
class Row:
    """What was found of one architecture."""

    name: str
    carrier: str = ""
    cells: dict[str, str] = field(default_factory=dict)  # by what was tried: same, or why not


ARCHITECTURES = """# Architectures

Written by `make sweep`, which makes a tiny random model of every causal architecture that
transformers maps and holds Rung against it: logits of the base alone and beside a longer row,
logits and first gradients of every trained method. *trie*: batches share what they begin with;
*padded rows*: they do not, and every step of an answer reads the whole text again, which is right
and slow; *rows one by one*: a row's numbers would depend on its neighbours.
"""
NOT_MADE = "Not made, since no tiny one could be built from its configuration:"
ADAPTERS = """# Adapters that were made with PEFT

Written by `make sweep`, which makes an adapter of each kind with PEFT on a tiny model, reads it and
compares logits. `rung add`, `rung serve`, `rung chat` and `rung eval` take them from a folder or
the Hub. All of them are served in one batch with any others. *Through PEFT*: PEFT's own code merges
it into a copy of the base when it is loaded, which is proven by its logits and takes as much memory
as the weights that it changes. What is refused can be merged with PEFT (`merge_and_unload`) where
PEFT can, and used as a base.

Of LoRA are read: rank and alpha by module, rsLoRA, DoRA, biases, `lora_bias`, embeddings and output
layer, `modules_to_save`, `trainable_token_indices`, PiSSA, OLoRA and activated LoRA
(`alora_invocation_tokens`), which acts from the last call in the prompt on; what the base computed in
front of it is shared with the base. Rows of added tokens, of an adapter that was trained on a resized
base, are read where the file has them of both embeddings and output layer. Any setting that is neither
read nor at its default refuses the adapter by its name.

Folders that trainers call alike, such as `trainer_output/checkpoint-3`, are served under as much of
their paths as tells them apart. `make bench-adapters` has TRL and transformers make six kinds in their
default folders and holds the answers of `rung serve` against PEFT's.
"""


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def architectures_page(rows: list[Row]) -> str:
    """docs/architectures.md."""
    made = [r for r in rows if "made" not in r.cells]
    columns = list(dict.fromkeys(c for r in made for c in r.cells))
    notes: dict[str, int] = {}

    def cell(text: str) -> str:
        if text == SAME:
            return "yes"
        return f"no [{notes.setdefault(text, len(notes) + 1)}]"

    lines = [
        f"| {r.name} | {r.carrier.partition(':')[0]} | "
        + " | ".join(cell(r.cells[c]) if c in r.cells else "" for c in columns)
        + " |"
        for r in made
    ]
    left = [f"- {r.name}: {_plain(r.cells['made'])}" for r in rows if "made" in r.cells]
    return "\n".join(
        [
            ARCHITECTURES,
            f"{len(made)} architectures; of their cells "
            + ", ".join(f"{n} {c}" for c, n in counts_of(made).items()) + ".",
            "",
            "| architecture | batches as | " + " | ".join(columns) + " |",
            "|---|---|" + "---|" * len(columns), *lines, "",
            *(f"[{i}]: {_plain(text)}  " for text, i in notes.items()), "",
            *([NOT_MADE, "", *left] if left else []),
        ]
    ) + "\n"  # fmt: skip


def counts_of(rows: list[Row]) -> dict[str, int]:
    found = Counter(cell for r in rows for cell in map(class_of, r.cells.values()))
    return {f"{name}": found[name] for name in ("same", "refused with a reason", "differ", "traceback")}


def class_of(cell: str) -> str:
    if cell == SAME:
        return "same"
    if cell.startswith(DIFFERS):
        return "differ"
    return "traceback" if cell.startswith(CRASH) else "refused with a reason"


def adapters_page(found: dict[str, tuple[str, str]]) -> str:
    """docs/adapters.md."""
    lines = [
        f"| {kind} | {how} | {'answers as PEFT does' if cell == SAME else _plain(cell)} |"
        for kind, (how, cell) in found.items()
    ]
    return "\n".join(
        [
            ADAPTERS,
            "| kind | read | |", "|---|---|---|", *lines, "",
        ]
    )  # fmt: skip
