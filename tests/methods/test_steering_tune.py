"""Steering from the command's side: pairs in, a model out that a request steers."""

from __future__ import annotations

import json

from rung.models import load_engine
from rung.train.job import tune
from rung.train.plan import Plan
from rung.types import Decoding, Prompt
from tests.train.conftest import SCRATCH


def test_contrasts_make_a_model(tmp_path, rung_home):
    rows = [
        {"positive": f"How was day {i}?\nCalm and kind.", "negative": f"How was day {i}?\nAngry!"}
        for i in range(40)
    ]
    path = tmp_path / "contrasts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = tune(
        Plan.of("calm", {"base": SCRATCH, "data": str(path), "method": "steering", "strengths": [0.0]})
    )
    assert made.metrics["perplexity_at_0"] > 1
    from rung.engine import GenerationRequest

    engine = load_engine(["calm"])
    try:
        asked = [
            GenerationRequest("calm", Prompt((5, 6, 7)), Decoding(max_tokens=2, strength=s))
            for s in (None, -1.0)
        ]
        assert all(one.ids for one in engine.generate(asked))
    finally:
        engine.stop()
