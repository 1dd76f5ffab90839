"""`rung map` as its users see it: table, review page, bad input, the kept mapper and its route."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import httpx
import pytest

from rung.artefacts.cards import read_card
from rung.mapping import mapper, rungs
from rung.mapping.confidence import Calibration
from rung.mapping.mapper import RecordMapper
from rung.mapping.records import Record
from rung.mapping.rungs.base import State, Tools
from rung.mapping.vectors import Vectors
from rung.store import Store
from tests.cli.conftest import Ask
from tests.mapping.world import files, known, names, write
from tests.server.conftest import serve
from tests.server.shop import base_folder

CHEAP = ("--only", "edit_distance", "--only", "tfidf")


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys, rung_home) -> Ask:
    """The command line in this process, in an empty folder."""
    from rung.cli import run
    from tests.cli.conftest import Answer

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


def rows(path: str | Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_with_confidence_and_status_and_a_page_come_out(ask, tmp_path):
    ours, theirs, pairs = files(tmp_path)
    found = ask("map", ours, theirs, "--pairs", pairs, *CHEAP, "--out", "out/mapping.csv", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told["winner"] in ("edit_distance", "tfidf") and told["cleared"] is None
    assert told["rungs"][0]["validation"]["f1"]["n"] == 9
    table = rows("out/mapping.csv")
    assert [r["left"] for r in table] == [f"l{i:02}" for i in range(60)]
    assert {r["status"] for r in table} <= {"sure", "unsure", "none"}
    assert all((r["right"] == "") == (r["status"] == "none") for r in table)
    mapped = [r["right"] for r in table if r["right"]]
    assert len(set(mapped)) == len(mapped) > 40
    assert all(0 <= float(r["confidence"]) <= 1 for r in table)
    assert told["counts"] == {s: sum(r["status"] == s for r in table) for s in told["counts"]}


def test_many_to_one_gives_several_records_one_partner(ask, tmp_path):
    ours = write(
        tmp_path / "a.csv", ("id", "name"), [("1", "user name"), ("2", "user_name"), ("3", "city")]
    )
    theirs = write(tmp_path / "b.csv", ("id", "name"), [("x", "UserName"), ("y", "City")])
    for flags, partners in (((), 2), (("--many-to-one",), 3)):
        assert ask("map", ours, theirs, "--only", "edit_distance", *flags).code == 0
        assert sum(r["right"] != "" for r in rows("mapping.csv")) == partners


def test_the_page_shows_what_is_unsure_asks_nobody_and_its_csv_goes_back_in(ask, tmp_path):
    ours, theirs, pairs = files(tmp_path)
    evil = [
        ("l00", '<script>alert(1)</script> "x"'),
        *((f"l{i:02}", a) for i, (a, _) in enumerate(names())),
    ][:61]
    ours = write(tmp_path / "ours.csv", ("id", "name"), [evil[0], *evil[2:]])
    assert ask("map", ours, theirs, "--pairs", pairs, *CHEAP, "--sure", "1").code == 0
    page = Path("mapping.html").read_text(encoding="utf-8")
    unsure = [r for r in rows("mapping.csv") if r["status"] == "unsure"]
    assert unsure and page.count("<fieldset") == len(unsure)
    assert "<script>alert" not in page and not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert 'name="viewport"' in page and "default-src 'none'" in page
    reviewed = write(
        tmp_path / "reviewed.csv", ("left", "right"),
        [(unsure[0]["left"], ""), (unsure[1]["left"], unsure[0]["right"])],
    )  # fmt: skip
    again = ask("map", ours, theirs, "--pairs", pairs, "--pairs", reviewed, *CHEAP)
    assert again.code == 0, again.err
    table = {r["left"]: r for r in rows("mapping.csv")}
    assert table[unsure[0]["left"]]["status"] == "none" and table[unsure[0]["left"]]["by"] == "known"
    assert table[unsure[1]["left"]]["right"] == unsure[0]["right"]


def test_without_pairs_it_says_that_nothing_was_measured(ask, tmp_path):
    ours, theirs, _ = files(tmp_path)
    found = ask("map", ours, theirs, *CHEAP)
    assert found.code == 0 and "nothing was measured" in found.out
    assert "no probabilities" in Path("mapping.html").read_text(encoding="utf-8")


def test_rows_to_tune_a_reranker_are_of_the_training_part_alone(ask, tmp_path):
    ours, theirs, pairs = files(tmp_path)
    assert ask("map", ours, theirs, "--pairs", pairs, *CHEAP, "--rows", "rows.jsonl").code == 0
    told = [json.loads(line)["messages"] for line in Path("rows.jsonl").read_text().splitlines()]
    assert 3 <= len(told) <= 14  # at most the training share of 30 known pairs
    for asked, answer in told:
        assert answer["content"] in asked["content"] and answer["role"] == "assistant"
    assert "--pairs" in ask("map", ours, theirs, *CHEAP, "--rows", "rows.jsonl").err


GOOD = ("id", "name"), [("1", "a"), ("2", "b")]


@pytest.mark.parametrize(
    ("left", "pairs", "flags", "words"),
    [
        ((("id", "name"), []), None, (), "has no rows"),
        (
            (("id", "name"), [("1", "a"), ("1", "b")]),
            None,
            (),
            "the id '1' stands at ours.csv:2 already",
        ),
        ((("id", "name"), [("", "a"), ("2", "b")]), None, (), "the column 'id' is empty"),
        (GOOD, None, ("--left-id", "idd"), "has no column 'idd', did you mean 'id'?"),
        (GOOD, None, ("--group-by", "team"), "has no column 'team'"),
        (GOOD, (("left", "rihgt"), [("1", "r00")]), (), "has no column 'right', did you mean 'rihgt'?"),
        (
            GOOD,
            (("left", "right"), [("1", "r0")]),
            (),
            "known.csv:2: no right record 'r0', did you mean",
        ),
        (GOOD, (("left", "right"), [("9", "r00")]), (), "no left record '9'"),
        (GOOD, (("left", "right"), [("1", "r00")]), (), "1 left records have known pairs"),
        (GOOD, None, ("--bar", "f1=0.8"), "--bar needs known pairs"),
        (GOOD, None, ("--bar", "f2=0.8"), "no metric 'f2', did you mean 'f1'?"),
        (GOOD, None, ("--bar", "f1=80"), "cannot be measured"),
        (GOOD, None, ("--bar", "f1<=0.8"), "more is better"),
        (GOOD, None, ("--only", "tfdf"), "did you mean 'tfidf'?"),
        (GOOD, None, ("--only", "linear_probe"), "give some with --pairs"),
        (GOOD, None, ("--validation", "0.5", "--test", "0.5"), "leave too few pairs"),
        (GOOD, None, ("--out", "/proc/nowhere/x.csv"), "cannot write"),
        (GOOD, None, ("--name", "no/name"), "name"),
    ],
)
def test_bad_input_is_one_clear_line(ask, tmp_path, left, pairs, flags, words):
    _, theirs, _ = files(tmp_path)
    ours = write(tmp_path / "ours.csv", *left)
    given = () if pairs is None else ("--pairs", write(tmp_path / "known.csv", *pairs))
    only = () if "--only" in flags else CHEAP
    found = ask("map", ours, theirs, *given, *only, *flags)
    assert words in found.refused()


@pytest.fixture
def mapped(ask, tmp_path):
    """A mapper in the store, on a tiny base."""
    base = base_folder(tmp_path / "tiny")
    ours, theirs, pairs = files(tmp_path)
    arguments = (
        "map",
        ours,
        theirs,
        "--pairs",
        pairs,
        *CHEAP,
        "--name",
        "mapper",
        "--base",
        str(base),
        "--threshold",
        "0.2",
    )
    found = ask(*arguments)
    assert found.code == 0 and "rung serve mapper" in found.err, found.err
    return ask, arguments


def test_a_kept_mapper_has_a_card_and_its_lineage_and_is_not_lost(mapped):
    ask, arguments = mapped
    with Store.open() as store:
        model = store.models.get("mapper")
        assert model.method == "mapping" and len(model.datasets) == 3
        assert {"validation_f1", "test_f1"} <= set(model.metrics)
        assert {e.metric for e in store.evaluations.list(model="mapper")} >= {"test_f1", "test_recall"}
    assert "mapping" in read_card(model.folder)["tags"]
    assert "exists: choose another name" in ask(*arguments).refused()
    assert ask(*arguments, "--replace").code == 0
    shown = ask("show", "mapper")
    assert shown.code == 0 and "known.csv" in shown.out
    (Path(model.folder) / "mapper.json").write_text("{}")
    assert "mapper" in ask("compare", "mapper", "--prompt", "a").refused()


def test_a_kept_record_may_hold_what_ends_lines_elsewhere(tmp_path):
    records = [Record("a", "one\u2028two", "x\x85y"), Record("b", "three\u2029", "\r\n\x0b")]
    scorer = rungs.get("edit_distance").restore(records, State({}, {}), Tools(Vectors("")))
    RecordMapper(
        rung="edit_distance", scorer=scorer, calibration=Calibration(), threshold=0.5, sure=0.9,
        count=2, encoder="",
    ).write(tmp_path)  # fmt: skip
    assert list(mapper.read(tmp_path).scorer.right) == records


def test_a_record_that_is_known_to_be_none_of_these_is_not_guessed():
    right = [Record("R1", "customerName", ""), Record("R2", "orderDate", "")]
    scorer = rungs.get("edit_distance").restore(right, State({}, {}), Tools(Vectors("")))
    made = RecordMapper(
        rung="edit_distance", scorer=scorer, calibration=Calibration(), threshold=0.5, sure=0.9,
        count=2, encoder="", known={"customer_name": [], "order_date": ["R2"]},
    )  # fmt: skip
    asked = [("customer_name", ""), ("order_date", ""), ("customer_nam", "")]
    nobody, known, guessed = made.matches(None, None, asked)
    assert nobody == () and [m.id for m in known] == ["R2"] and guessed[0].id == "R1"


def test_a_served_mapper_maps_records_and_writes_nothing(mapped):
    from rung.models import load_engine

    served = serve(load_engine(["mapper"]))
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            asked = [
                {"name": "region_status"},
                {"name": "l00", "description": "known"},
                {"name": "zqkvwj"},
            ]
            found = http.post("/v1/map", json={"model": "mapper", "records": asked, "candidates": 3})
            assert found.status_code == 200, found.text
            one, told, lost = found.json()["data"]
            place = [a for a, _ in names()].index("region_status")
            assert one["match"] == f"r{place:02}" and one["status"] in ("sure", "unsure")
            assert [c["confidence"] for c in one["candidates"]] == sorted(
                (c["confidence"] for c in one["candidates"]), reverse=True
            )
            assert len(one["candidates"]) == 3 and one["candidates"][0]["name"] == "StatusOfRegion"
            assert told["match"] == next(iter(known(2)["l00"])) and told["confidence"] == 1.0
            assert lost["match"] is None and lost["status"] == "none"
            wrong = [
                ({"model": "mapper", "records": []}, "records"),
                ({"model": "mapper", "records": [{"name": ""}]}, "name"),
                ({"model": "maper", "records": asked}, "did you mean 'mapper'"),
                ({"model": "tiny", "records": asked}, "is no mapper"),
            ]
            for body, words in wrong:
                refused = http.post("/v1/map", json=body)
                assert 400 <= refused.status_code < 500 and words in refused.text, refused.text
            chat = {"model": "mapper", "messages": [{"role": "user", "content": "a"}]}
            assert "is a mapper" in http.post("/v1/chat/completions", json=chat).text
    finally:
        served.stop()


def test_a_reranker_is_asked_and_its_mapper_is_served_from_its_base(ask, tmp_path):
    base = base_folder(tmp_path / "tiny")
    ours, theirs, pairs = files(tmp_path)
    only = ("--only", "edit_distance", "--only", "rerank")
    flags = (
        "--reranker",
        str(base),
        "--shots",
        "1",
        "--reranked",
        "3",
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    found = ask("map", ours, theirs, "--pairs", pairs, *only, *flags, "--json")
    assert found.code == 0, found.err
    told = {r["rung"]: r for r in json.loads(found.out)["rungs"]}
    assert told["rerank"]["reason"] == "" and told["rerank"]["validation"]["f1"]["n"] == 9
    assert "the model's choice counts" in found.err
    without = ask("map", ours, theirs, "--pairs", pairs, *only, "--json")
    reason = {r["rung"]: r["reason"] for r in json.loads(without.out)["rungs"]}["rerank"]
    assert "--reranker" in reason
