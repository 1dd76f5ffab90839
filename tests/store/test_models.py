"""Models, their lineage and licences, on every database."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.artefacts import folders
from rung.errors import ConfigError, ModelNotFound, StoreError
from rung.store import Store
from rung.store.records import BaseRecord, DatasetRecord, InUse
from rung.types import BaseInfo


def test_a_model_comes_back_as_it_was_put(
    store: Store, base: BaseRecord, quotes: DatasetRecord
) -> None:
    run = store.runs.create("coach", "lora", base=base, data=quotes)
    put = store.models.put(
        "coach",
        method="lora",
        base=base,
        datasets=[quotes],
        run=run.id,
        metrics={"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50}},
        cost={"seconds": 12.5},
    )
    assert put == store.models.get("coach") == store.models.list()[0]
    assert put.metrics["accuracy"]["low"] == 0.7
    assert put.datasets == (quotes.digest,)
    assert put.created_unix > 1_700_000_000


def test_lineage_reaches_the_base_through_parents(
    store: Store, base: BaseRecord, quotes: DatasetRecord
) -> None:
    store.models.put("first", method="lora", base=base, datasets=[quotes])
    own = DatasetRecord("e" * 64, "own")
    second = store.models.put("second", method="full", base=base, parent="first", datasets=[own])
    root = store.lineage("second")
    assert [(n.kind, n.name) for n in root.walk()] == [
        ("model", "second"),
        ("model", "first"),
        ("base", "smol"),
        ("data", "quotes"),
        ("data", "own"),
    ]
    found, reasons = store.licence("second")
    assert found == second.licence_class == root.licence_class == "non-commercial"
    assert reasons == (
        "data quotes is under cc-by-nc-4.0 (non-commercial)",
        "data own states no licence",
        "base smol is under apache-2.0 (permissive)",
    )


@pytest.mark.parametrize(
    ("declared", "found"), [(None, "permissive"), ("gemma", "restricted"), ("proprietary", "closed")]
)
def test_what_the_maker_declares_counts(
    store: Store, base: BaseRecord, declared: str | None, found: str
) -> None:
    store.models.put("coach", method="lora", base=base, licence=declared)
    assert store.licence("coach")[0] == found


def test_a_base_that_was_resolved_is_recorded_without_its_path(store: Store) -> None:
    info = BaseInfo("smol", "hub:org/smol", "/somewhere", "abc", "mit", "permissive", "Org")
    store.models.put("coach", method="lora", base=info)
    assert store.bases.get("abc").organisation == "Org"
    assert "/somewhere" not in str(store.bases.list())


def test_a_later_licence_of_a_base_counts(store: Store, base: BaseRecord) -> None:
    store.bases.put(BaseRecord(base.digest, "smol", "smol"))
    store.models.put("coach", method="lora", base=base.digest)
    assert store.licence("coach")[0] == "unknown"
    store.bases.put(base)
    assert store.licence("coach")[0] == "permissive"


def test_unknown_names_get_the_nearest(store: Store, base: BaseRecord) -> None:
    store.models.put("coach", method="lora", base=base)
    for ask in (store.models.get, store.models.remove, store.lineage, store.models.update):
        with pytest.raises(ModelNotFound, match="did you mean 'coach'"):
            ask("caoch")
    with pytest.raises(ModelNotFound, match="did you mean 'coach'"):
        store.models.put("new", method="lora", base=base, parent="coahc")
    with pytest.raises(ModelNotFound):
        store.evaluations.add(model="caoch", metric="accuracy", value=1)


def test_a_parent_is_neither_removed_nor_replaced(store: Store, base: BaseRecord) -> None:
    store.models.put("first", method="lora", base=base)
    store.models.put("second", method="lora", base=base, parent="first")
    with pytest.raises(InUse, match="'first' is the parent or base of 'second'"):
        store.models.remove("first")
    with pytest.raises(InUse, match="choose another name"):
        store.models.check("first")
    with pytest.raises(ConfigError, match="descend from itself"):
        store.models.check("first", parent="second")
    store.models.check("third", parent="second")
    store.models.remove("second")
    store.models.remove("first")
    assert store.models.list() == []


def test_what_others_stand_on_is_neither_removed_nor_replaced(store: Store, base: BaseRecord) -> None:
    own = BaseRecord("d1", "tiny", "model:tiny")
    store.models.put("tiny", method="scratch", base=own)
    store.models.put("poet", method="lora", base=own)
    for ask in (store.models.remove, store.models.check):
        with pytest.raises(InUse, match="'tiny' is the parent or base of 'poet'"):
            ask("tiny")
    store.models.remove("poet")
    store.models.check("tiny")
    run = store.runs.create("kid", "lora", base=base, parent="tiny")
    with pytest.raises(InUse, match=f"'tiny' is what {run.id} trains on"):
        store.models.remove("tiny")
    store.runs.update(run.id, status="failed")
    store.models.remove("tiny")


def test_nothing_is_half_written(store: Store, base: BaseRecord, quotes: DatasetRecord) -> None:
    """The last step of a put fails: neither the model nor its sources are there afterwards."""
    with pytest.raises(StoreError, match="knows no data"):
        store.models.put("coach", method="lora", base=base, datasets=[quotes, "unheard of"])
    with pytest.raises(StoreError, match="inconsistent"):
        store.models.put("coach", method="lora", base=base, run="unheard of")
    assert store.models.list() == []
    assert store.bases.list() == []
    assert store.datasets.list() == []


def test_replacing_a_model_forgets_what_was_measured_of_the_old_weights(
    store: Store, base: BaseRecord, quotes: DatasetRecord
) -> None:
    store.models.put("coach", method="lora", base=base)
    added = store.evaluations.add(
        model="coach", metric="accuracy", value=0.5, low=0.4, high=0.6, n=9, dataset=quotes
    )
    store.evaluations.add(base=base, metric="accuracy", value=0.2)
    assert store.evaluations.list(model="coach", dataset=quotes.digest) == [added]
    store.models.put("coach", method="full", base=base)
    assert store.evaluations.list(model="coach") == []
    assert [e.value for e in store.evaluations.list(base=base.digest)] == [0.2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_evaluation_without_a_value_is_refused(store: Store, base: BaseRecord, value: float) -> None:
    with pytest.raises(StoreError, match="measures nothing"):
        store.evaluations.add(base=base, metric="accuracy", value=value)
    with pytest.raises(StoreError, match="give one of them"):
        store.evaluations.add(metric="accuracy", value=1)


def test_folders_survive_a_move_of_home(
    store: Store, base: BaseRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders.model_folder("coach")
    assert store.models.put("coach", method="lora", base=base, folder=folder).folder == str(folder)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "moved"))
    assert store.models.get("coach").folder == str(folders.model_folder("coach"))
    elsewhere = str(tmp_path / "elsewhere")
    assert store.models.update("coach", folder=elsewhere).folder == elsewhere


ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.dictionaries(ANY_TEXT, ANY_JSON, max_size=4), error=ANY_TEXT)
def test_any_configuration_can_be_kept(store: Store, config: dict, error: str) -> None:
    """NaN, NUL, lone surrogates: nothing that a run says makes the store refuse it."""
    from rung.store.schema import storable

    run = store.runs.create("coach", "lora", config=config)
    store.runs.update(run.id, status="failed", error=error)
    kept = store.runs.get(run.id)
    assert kept.config == storable(config)
    assert kept.status == "failed"
