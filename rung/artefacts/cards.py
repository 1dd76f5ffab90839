"""The model card: a README.md in the Hub's format, whose front matter the Hub and others read.

Format: "Model Cards" in the documentation of the Hugging Face Hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rung.artefacts.licences import classify
from rung.errors import ArtefactError
from rung.types import LicenceClass

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class CardDataset(Protocol):
    """What a card says of a data set; `store.records.DatasetRecord` is one."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Part:
    """What a model was made from: a base, a model, or data. `licence_class` counts in all its parts."""

    kind: str
    name: str
    licence: str
    licence_class: LicenceClass


@dataclass(frozen=True)
class Card:
    """What a card says. A metric is a number, or `{"value", "low", "high", "n"}` with an interval.

    `base` is the spec that the base was resolved from; `cost` has `seconds`, `tokens` and whatever
    else was counted, bytes in names that end in `bytes`.
    """

    name: str
    base: str
    method: str
    base_name: str = ""
    hub_base: str = ""  # the base's id on the Hub, where its spec does not say it
    relation: Literal["adapter", "finetune", "merge"] = "adapter"
    peft: bool = True  # whether PEFT can load it
    objective: str = ""
    parent: str | None = None
    datasets: Sequence[CardDataset] = ()
    licence: str | None = None
    licence_class: LicenceClass = "unknown"
    licence_reasons: Sequence[str] = ()
    made_from: Sequence[Part] = ()  # everything in the lineage of a model that is written whole
    metrics: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipeline_tag: str = "text-generation"
    pictures: bool = False  # whether it is asked with pictures
    reward: bool = False  # whether it scores texts and writes none
    rows: int = 0  # that its base's embeddings must have for added tokens; 0: as many as they have
    tags: Sequence[str] = ()


def write_card(folder: str | Path, card: Card) -> Path:
    """Write README.md into `folder` and return its path. Call it from the `fill` of a write."""
    import yaml

    front = yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True)
    path = Path(folder) / "README.md"
    path.write_text(f"---\n{front}---\n\n{_body(card)}", encoding="utf-8")
    return path


def read_card(folder: str | Path) -> dict[str, Any]:
    """The front matter of a folder's README.md; empty when it has none.

    Raises:
        ArtefactError: when the front matter is not YAML.
    """
    import yaml

    path = Path(folder) / "README.md"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        content = yaml.safe_load(found.group(1)) if found else {}
    except yaml.YAMLError:
        raise ArtefactError(f"{path} begins with something that is not YAML: mend it") from None
    return content if isinstance(content, dict) else {}


def hub_id(spec: str) -> str:
    """The Hub's id in a spec such as `hub:org/name@main`, or in a data source such as `hf:NAME:SPLIT`;
    "" for what is not on the Hub, whose name there would break the push and point nowhere."""
    kind, _, rest = spec.partition(":")
    bare = (rest.split(":")[0] if kind in ("hub", "hf") else spec).split("@")[0]
    if HUB_ID.fullmatch(bare) and ".." not in bare and not Path(bare).exists():
        return bare
    return ""


def shown(name: str, value: Any) -> str:
    """A metric, cost or setting for people, with its unit where the name tells it."""
    if isinstance(value, Mapping) and "value" in value:
        interval = ""
        if value.get("low") is not None and value.get("high") is not None:
            interval = f" [{value['low']:.4g}, {value['high']:.4g}]"
        count = f" (n = {value['n']})" if value.get("n") else ""
        return f"{shown(name, value['value'])}{interval}{count}"
    if isinstance(value, bool) or value is None or not isinstance(value, (int, float)):
        if isinstance(value, (list, tuple)):
            return ", ".join(str(item) for item in value)
        return "" if value is None else str(value)
    if name.endswith("bytes"):
        return _bytes(value)
    if name.endswith("seconds"):
        return f"{value:,.1f} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _front_matter(card: Card) -> dict[str, Any]:
    front: dict[str, Any] = {}
    if base := card.hub_base or hub_id(card.base):
        front |= {"base_model": base, "base_model_relation": card.relation}
    if known := [found for d in card.datasets if (found := hub_id(d.source))]:
        front["datasets"] = known
    front |= _licence(card.licence)
    front["pipeline_tag"] = card.pipeline_tag
    if card.peft:
        front["library_name"] = "peft"
    elif card.relation != "adapter":
        front["library_name"] = "transformers"
    tags = ["rung", card.method.replace("_", "-"), card.objective, *card.tags]
    front["tags"] = list(dict.fromkeys(tag for tag in tags if tag))
    return front


def _licence(licence: str | None) -> dict[str, str]:
    """The Hub takes its own identifiers, and `other` with a name for the rest."""
    if not licence or licence.lower() == "unknown":
        return {"license": "unknown"}
    if classify(licence) in ("unknown", "closed"):
        return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", licence.lower())}
    return {"license": licence.lower()}


def _body(card: Card) -> str:
    base = card.base_name or hub_id(card.base) or "a base"
    origin = f", trained on from `{card.parent}`" if card.parent else ""
    objective = f" with the objective {card.objective}" if card.objective else ""
    sections = [
        f"# {card.name}",
        f"`{base}` adapted by {card.method.replace('_', ' ')}{objective}{origin}.",
        "## How to use\n\n" + _usage(card),
        "## Training data\n\n" + _data(card.datasets),
        "## Metrics\n\n" + _table(("metric", "value"), card.metrics),
        "## Cost\n\n" + _table(("what", "amount"), card.cost),
        "## Settings\n\n" + _table(("setting", "value"), card.settings),
        "## Licence\n\n" + _terms(card),
    ]
    if card.made_from:
        rows = [(p.kind, p.name, p.licence, p.licence_class) for p in card.made_from]
        head = ("what", "name", "licence", "class of use")
        sections.append("## Made from\n\n" + _rows(head, dict.fromkeys(rows)))
    return "\n\n".join(sections) + "\n"


HERE = 'folder = "."  # of these files, or the name of this repository on the Hub'


def verb(reward: bool) -> str:
    """Name the verb that asks a model first: a reward model scores and writes nothing."""
    return "eval" if reward else "chat"


def _usage(card: Card) -> str:
    if card.pictures:
        return _usage_on_pictures(card)
    text = f"```bash\nrung {verb(card.reward)} {card.name}\n```"
    base = card.hub_base or hub_id(card.base)
    if card.peft and not base:
        own = card.base_name or "which it was made from"
        return (
            f"{text}\n\nIts base, {own}, is no repository of the Hub: give PEFT the base you have, "
            f"or make one model of both with `rung export {card.name} DIR --to merged`."
        )
    if card.peft:
        resized = (
            f"base.resize_token_embeddings({card.rows})  # for added tokens\n" if card.rows else ""
        )
        code = (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"{HERE}\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            f"{resized}"
            "model = PeftModel.from_pretrained(base, folder)\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder)"
        )
    elif card.relation != "adapter":
        code = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"{HERE}\n"
            "model = AutoModelForCausalLM.from_pretrained(folder)\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder)"
        )
    else:
        return text
    return f"{text}\n\n```python\n{code}\n```"


def _usage_on_pictures(card: Card) -> str:
    text = f"```bash\nrung serve {card.name}\n```"
    if not card.peft:
        return text
    beside = (
        "PEFT reads the weights beside the encoder's; the classifier of their vectors is in "
        "`classifier.json` and `classifier.safetensors`."
    )
    base = card.hub_base or hub_id(card.base)
    if not base:
        own = card.base_name or "which it was made from"
        lost = f"Its base, {own}, is no repository of the Hub: give PEFT the base you have."
        return f"{text}\n\n{lost} {beside}"
    code = (
        "from peft import PeftModel\n"
        "from transformers import AutoImageProcessor, AutoModel\n\n"
        f"{HERE}\n"
        f'base = AutoModel.from_pretrained("{base}")\n'
        "model = PeftModel.from_pretrained(base, folder)\n"
        f'processor = AutoImageProcessor.from_pretrained("{base}")'
    )
    return f"{text}\n\n{beside}\n\n```python\n{code}\n```"


def _data(datasets: Iterable[CardDataset]) -> str:
    rows = [
        (d.name, f"{d.rows:,}" if d.rows else "", d.format, d.licence, f"`{d.digest}`")
        for d in datasets
    ]
    return _rows(("name", "rows", "format", "licence", "SHA-256"), rows) if rows else "None."


def _terms(card: Card) -> str:
    reasons = "".join(f"\n- {_cell(reason)}" for reason in card.licence_reasons)
    because = f", since\n{reasons}" if reasons else "."
    return f"Class of use: **{card.licence_class}**{because}"


def _table(head: tuple[str, str], values: Mapping[str, Any]) -> str:
    rows = [(name, shown(name, value)) for name, value in values.items() if value is not None]
    return _rows(head, rows) if rows else "Not measured."


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that cannot break out of a table or a list, nor bring HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
