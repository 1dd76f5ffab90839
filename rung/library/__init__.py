"""What the verbs of the command line do, as functions: `import rung` offers them.

    import rung
    rung.tune("coach", data="quotes.jsonl", method="prompt_tuning")
    with rung.load("coach") as coach:
        print(coach.ask("Coach me."))

Settings are those of the command line, by name or in sections (`lora={"rank": 8}`), and faults are the
same RungErrors. docs/python.md lists the names that stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import home
from rung.config import as_dict, resolve
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError
from rung.ladder.settings import settle
from rung.library.knobs import DecodingKnobs, EvalKnobs, LoadKnobs, ToolKnobs
from rung.mapping.knobs import MapKnobs
from rung.redteam.knobs import RedteamKnobs
from rung.train.plan import Plan

if TYPE_CHECKING:
    from rung.exports.proof import Proof
    from rung.ladder.plan import Planned
    from rung.ladder.scorecard import Scorecard
    from rung.library.evaluation import Evaluation
    from rung.library.mapping import Mapped
    from rung.library.model import Model
    from rung.redteam.run import Finished
    from rung.train.job import Outcome

Data = str | Path | Iterable[Mapping[str, Any]]  # a source as the command line takes it, or rows


def load(name: str, **settings: Any) -> Model:
    """Load a model of the store, or a base, and start its engine.

    Args:
        settings: `dtype`, `device`, `quantize`, `tools`, as `rung chat` takes them.

    Raises:
        ModelNotFound: when the name is neither a model nor a base.
        ArtefactError: when the model's folder is damaged or does not fit its base.
    """
    knobs, beside = resolve([LoadKnobs, ToolKnobs], settings)
    from rung.library.model import Model
    from rung.models import load_engine

    return Model(load_engine([name], tools=beside.tools, **as_dict(knobs)), name)


def compare(names: Sequence[str], prompts: Sequence[str], **settings: Any) -> dict[str, dict[str, str]]:
    """Ask the base and models of it the same, all in one batch.

    Args:
        settings: `dtype`, `device`, `quantize`, `system`, `temperature`, `top_p`, `seed`, `max_tokens`.

    Returns:
        for each prompt the answer of each model by its name, the base first.

    Raises:
        ConfigError: when there is nothing to ask, or the models stand on different bases.
    """
    loading, decoding = resolve([LoadKnobs, DecodingKnobs], settings)
    from rung.library.comparison import ask_all
    from rung.models import load_engine

    engine = load_engine(names, **as_dict(loading))
    found = ask_all(engine, prompts, decoding)
    return {p: {name: one.text for name, one in answers.items()} for p, answers in found.items()}


def tune(name: str, data: Data, *, replace: bool = False, **settings: Any) -> Outcome:
    """Adapt a base to data and keep the result as model `name`.

    Args:
        data: a file, `hf:NAME`, `wheel:PACKAGE/MEMBER`, or rows as mappings, which are kept at home.
        replace: take the place of a model of that name.
        settings: as `rung tune` takes them: `base`, `method`, `epochs`, `lora={"rank": 8}`, ...

    Returns:
        the model's record, its metrics and what it cost.

    Raises:
        ConfigError: naming every unknown setting and bad value at once.
        DataError: when the data cannot be read or would ruin the training.
    """
    plan = Plan.of(name, settings, {"data": source(data)})
    from rung.train.job import tune as work

    return work(plan, replace=replace)


def climb(data: Data, *, name: str | None = None, replace: bool = False, **settings: Any) -> Scorecard:
    """Measure what each way of adapting a base gives and costs, up to the first that is good enough.

    Args:
        data: as `tune` takes it.
        name: begins the names of the models; the data's own by default.
        settings: as `rung climb` takes them: `bar`, `budget`, `only`, `base`, ...

    Raises:
        ConfigError, DataError: as `tune`.
    """
    knobs, rest = settle(settings, {"data": source(data)})
    from rung.ladder.climb import climb as work
    from rung.ladder.climb import free_name, task_name
    from rung.ladder.scorecard import Scorecard
    from rung.store import Store

    with Store.open() as store:
        own = task_name(rest["data"])
        prefix = name or (own if replace else free_name(own, store))
        return Scorecard.of(store, work(prefix, rest, knobs, None, store, replace))


def plan(data: Data, **settings: Any) -> list[Planned]:
    """Predict what each rung of a climb will take, the cheapest first, before anything is trained.

    Args:
        data, settings: as `climb` takes them.
    """
    knobs, rest = settle(settings, {"data": source(data)})
    from rung.ladder.plan import plan as work

    return work(rest, knobs).rows


def evaluate(*names: str, data: Data | None = None, **settings: Any) -> Evaluation:
    """Measure models on the same items and compare each with the first, item by item.

    Args:
        names: models, or bases.
        data: as `tune` takes it; by default what was held out of the first model's own.
        settings: as `rung eval` takes them: `metric`, `part`, `items`, `dtype`, `user`, ...

    Raises:
        ConfigError: for an unknown setting, or no model at all.
        DataError: when the data cannot be read, or has no such rows.
        ModelNotFound: for a name that is neither a model nor a base.
    """
    if not names:
        raise ConfigError("name a model to measure")
    from rung.library.evaluation import evaluate as work
    from rung.library.own_data import own_run, settings_of

    run = own_run(names) if data is None else None
    own = settings_of(run) if data is None else {"data": source(data)}
    knobs, loading, rows = resolve([EvalKnobs, LoadKnobs, DataKnobs], own, settings)
    return work(names, rows, knobs, loading, run=run)


def red_team(name: str, *, replace: bool = False, **settings: Any) -> Finished:
    """Attack a model, report what got through with intervals, and mend it where `mend=True`.

    Args:
        replace: take the place of a mended model of that name.
        settings: as `rung redteam` takes them: `attacks`, `judge`, `budget`, `out`, `mend`, ...

    Raises:
        ConfigError: for an unknown setting or judge. DataError: for a set that cannot be read.
        ModelNotFound: for a name that is neither a model nor a base.
    """
    knobs, loading = resolve([RedteamKnobs, LoadKnobs], settings)
    from rung.redteam.run import Run

    return Run(name, knobs, as_dict(loading), lambda done, total: None, replace).work()


def map_records(
    left: str | Path,
    right: str | Path,
    *,
    name: str | None = None,
    base: str = "smollm2-135m",
    replace: bool = False,
    **settings: Any,
) -> Mapped:
    """Say which record of one table is which of another, by the cheapest rung that is good enough.

    Args:
        left, right: tables with a row for each record.
        name: keep the mapper as a model of that name, which stands on `base` so that it can be served.
        replace: take the place of a model of that name.
        settings: as `rung map` takes them: `pairs`, `bar`, `many_to_one`, `only`, ...

    Raises:
        ConfigError: for an unknown setting. DataError: for tables or pairs that cannot be used.
    """
    knobs, loading = resolve([MapKnobs, LoadKnobs], settings)
    from rung.library.mapping import Keeping
    from rung.library.mapping import map_records as work

    keeping = Keeping(name, base, replace) if name is not None else None
    return work(str(left), str(right), knobs, loading, keeping)


def export(name: str, folder: str | Path, to: str = "peft", dtype: str | None = None) -> Proof:
    """Write a model for other tools into an empty folder, and prove that it gives the same logits.

    Raises:
        ConfigError: for an unknown format or precision, or a folder that is not empty.
        MethodMisfit: when the model cannot be written so.
        ArtefactError: when what was written answers differently; nothing is then left behind.
    """
    from rung.exports.export import export as work

    return work(name, Path(folder), to, dtype)


def source(data: Data) -> str:
    """Name data as the command line does; rows are written to a file at home, named by their content.

    Raises:
        ConfigError: for rows that are no mappings, or that JSON cannot express.
    """
    if isinstance(data, (str, Path)):
        return str(data)
    try:
        lines = [json.dumps(dict(row), ensure_ascii=False) + "\n" for row in data]
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"rows must be mappings that JSON can express: {fault}") from None
    text = "".join(lines).encode()
    path = home.folder("rows") / f"{hashlib.sha256(text).hexdigest()[:16]}.jsonl"
    if not path.exists():
        path.write_bytes(text)
    return str(path)
