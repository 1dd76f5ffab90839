"""Writer of a synthesised data set: JSON lines, and a data card beside them.

The card is Markdown with the front matter of "Dataset Cards" in the Hub's documentation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from rung.errors import ConfigError
from rung.synthesis.pipeline import Made

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def check(out: Path, replace: bool) -> None:
    """Refuse a place that cannot be written to, before anything is spent.

    Raises:
        ConfigError: saying which.
    """
    if out.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError(f"--out {out} must end in .jsonl")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and not replace:
        raise ConfigError(f"{out} exists: say --replace, or choose another --out")


def write(made: Made, out: Path, description: str, command: str) -> Path:
    """Write rows and card, each as a whole -> the card's path.

    Args:
        command: that makes the data set again.
    """
    text = text_of(made)
    card = out.with_suffix(".md")
    _place(card, _card(made, description, command, hashlib.sha256(text.encode()).hexdigest()))
    _place(out, text)
    return card


def text_of(made: Made) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made.rows)


def _place(path: Path, text: str) -> None:
    try:
        handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as fault:
        raise ConfigError(f"cannot write {path}: {fault.strerror}") from None


def _card(made: Made, description: str, command: str, digest: str) -> str:
    import yaml

    front = {
        "license": made.terms.licence,
        "size_categories": [next((name for most, name in SIZES if len(made.rows) < most), "n>1M")],
        "tags": ["rung", "synthetic", made.kind.name],
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    reasons = "".join(f"\n- {_plain(reason)}" for reason in made.terms.reasons)
    warned = "".join(f"\n- {_plain(warning)}" for warning in made.terms.warnings)
    refused = "".join(f"\n- {why}: {count}" for why, count in made.refused.most_common())
    sections = [
        f"# {_plain(description)}",
        f"{len(made.rows)} rows of the kind {made.kind.name} ({made.kind.summary}), written by "
        f"{', '.join(t.name for t in made.teachers)}. SHA-256 of the file: `{digest}`.",
        f"## Made by\n\n```bash\n{command}\n```",
        f"## Licence\n\nClass of use: **{made.terms.licence_class}**, since\n{reasons}"
        + (f"\n\nTerms to look at:\n{warned}" if warned else ""),
        f"## Diversity\n\n{made.diversity}.",
        f"## Refused drafts\n{refused or chr(10) + 'None.'}",
        "## Topics\n" + "".join(f"\n- {_plain(topic)}" for topic in made.plan.topics),
    ]
    if made.short:
        sections.insert(2, f"Fewer rows than were asked for: {_plain(made.short)}.")
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
