"""Data: from a source to examples, splits and the token ids a model sees.

    dataset = load(DataKnobs(data="quotes.json", user="{text}", assistant="{from}"))
    splits = split(dataset, knobs)
    template = Template.of(tokenizer)
    rows, skipped = template.render_all(splits.train, max_length=1024)
    refuse(check(rows, splits, template))

Importing this package imports neither torch nor transformers nor datasets.
"""

from rung.data.check import check, refuse, untrained_rows
from rung.data.dataset import Dataset, Duplicates, load
from rung.data.detokenizer import Decoder
from rung.data.knobs import DataKnobs
from rung.data.pairs import pairs
from rung.data.problem import Problem
from rung.data.split import Splits, split
from rung.data.template import Template

__all__ = [
    "DataKnobs",
    "Dataset",
    "Decoder",
    "Duplicates",
    "Problem",
    "Splits",
    "Template",
    "check",
    "load",
    "pairs",
    "refuse",
    "split",
    "untrained_rows",
]
