"""Figures of a card in words: what the terminal and the page both say."""

from __future__ import annotations

from typing import Any

TITLES = {
    "facts": "What it is",
    "speed": "Speed and memory here",
    "reading": "Predicting plain text",
    "recall": "Finding a hidden fact",
    "shots": "Gain from examples",
    "variety": "Variety of what it writes",
}


def says(part: str, f: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, how much) for a part's figures, the telling ones first."""
    return _SAYS[part](f)


def _facts(f: dict[str, Any]) -> list[tuple[str, str]]:
    share = f["in_embeddings"] / f["parameters"]
    by = f" by {f['organisation']}" if f["organisation"] else ""
    return [
        ("parameters", f"{short(f['parameters'])} ({share:.0%} in the embeddings)"),
        ("shape", f"{f['layers']} layers of {f['width']}, vocabulary {f['vocabulary']:,}"),
        ("context", f"{f['context']:,} tokens"),
        ("licence", f"{f['licence']} ({f['licence_class']}){by}"),
        ("weights", f"{size(f['weights_bytes'])} "
                    f"({f['weights_bytes'] / f['weights_bytes_float32']:.2f} of float32)"),
        ("loads in", f"{f['load_seconds']:.1f} s"),
        ("chat template", "yes" if f["chat_template"] else "none"),
    ]  # fmt: skip


def _speed(f: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("reads", f"{f['read_per_second']:,.0f} tokens/s (a prompt of {f['read_tokens']:,})"),
        ("writes", f"{f['write_per_second']:,.0f} tokens/s"),
        (f"writes, {f['streams']} streams", f"{f['write_per_second_streams']:,.0f} tokens/s"),
        ("peak memory", size(f["peak_bytes"])),
    ]


def _reading(f: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("perplexity", f"{f['perplexity']:.2f} per token"),
        ("bits per byte", f"{f['bits_per_byte']:.3f}"),
    ]
    easy, *_, hard = sorted(f["styles"], key=lambda s: s["bits_per_byte"])
    ends = [f"{s['style']} {s['bits_per_byte']:.2f}" for s in (easy, hard)]
    rows.append(("easiest, hardest", f"{ends[0]}, {ends[1]} bits per byte"))
    if len(f["by_context"]) > 1:
        first, last = f["by_context"][0], f["by_context"][-1]
        rows.append(
            (
                "with context",
                f"{first['perplexity']:.1f} behind {first['context']} tokens, "
                f"{last['perplexity']:.1f} behind {last['context']}",
            )
        )
    return rows


def _recall(f: dict[str, Any]) -> list[tuple[str, str]]:
    if not f["cells"]:
        return [("facts found", "its context is too short to ask")]
    rows = [
        ("facts found", f"{f['found']:.0%} of {f['asked']} ({f['low']:.0%} to {f['high']:.0%}; "
                        f"guessing {f['chance']:.0%})")
    ]  # fmt: skip
    lengths = sorted({c["length"] for c in f["cells"]})
    told = [
        f"{_mean(c['found'] for c in f['cells'] if c['length'] == n):.0%} at {n:,}" for n in lengths
    ]
    return [*rows, ("by tokens of context", ", ".join(told))]


def _shots(f: dict[str, Any]) -> list[tuple[str, str]]:
    if not f["counts"]:
        return [("accuracy", "its context is too short to ask")]
    told = ", ".join(f"{c['accuracy']:.0%} with {c['shots']}" for c in f["counts"])
    sure = f["counts"][-1]["low"] > f["counts"][0]["high"]
    more = f["gain"] * 100
    return [
        ("accuracy", f"{told} (guessing {f['chance']:.0%}, {f['asked']} items)"),
        ("gain", f"{more:+.0f} points" + ("" if sure else ", within what chance can do")),
    ]


def _variety(f: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"temperature {t['temperature']:g}",
            f"distinct-2 {t['distinct_2']:.2f}, self-BLEU {t['self_bleu']:.2f}",
        )
        for t in f["temperatures"]
    ]


_SAYS = {
    "facts": _facts,
    "speed": _speed,
    "reading": _reading,
    "recall": _recall,
    "shots": _shots,
    "variety": _variety,
}


def short(count: int) -> str:
    """A number of weights: 135M, 1.7B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def size(count: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def _mean(figures: Any) -> float:
    found = list(figures)
    return sum(found) / len(found)
