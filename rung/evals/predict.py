"""Predictions: ask a model examples, by choice among labels, its classifier, or generation.

Everything runs in this process on the bank, so that many models of one base are measured in one go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rung.data.problem import counted
from rung.engine import Engine, ServedModel
from rung.engine.request import ContextExceeded
from rung.engine.tool_loop import has_tools, step_request, take_steps
from rung.errors import ConfigError, Interrupted
from rung.evals import kinds, metrics
from rung.evals.answers import NO_JUDGE, Answers, Calls, Contest, Progress, Scores, Stopping
from rung.evals.by_name import by_name
from rung.evals.label_text import as_label, plain, told_apart
from rung.evals.preferences import compared
from rung.evals.reply_length import decoding_for
from rung.evals.scoring import Item, as_seen, replies_of, score
from rung.evals.tasks import question
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.remote.batch import ask_all, label_scores
from rung.types import Decoding, Example, Message, Prompt, Task

MAX_BATCH = 64  # maximum number of requests that generate side by side
MAX_CLASSIFIED = 64  # maximum number of prompts that a classifier gets at once


def predict(
    bank: Bank,
    model: ServedModel,
    examples: Sequence[Example],
    task: Task,
    *,
    stopping: Stopping | None = None,
    progress: Progress | None = None,
    referee: Contest | None = None,
) -> Answers:
    """Ask a model all examples, in the way that suits model and task.

    Args:
        bank: holds the model's adapter in `model.slot`.
        stopping: asked between passes. progress: told of items done, and of how many.
        referee: says what answers win, where the task is measured so.

    Raises:
        ConfigError: where a referee is needed and there is none.
        Interrupted: when `stopping` says so.
        DataError: when an example cannot be rendered. ContextExceeded: when one is too long.
    """
    begun, model = time.perf_counter(), by_name(bank, model, task)
    if metrics.by_wins(task):
        if referee is None:
            raise ConfigError(NO_JUDGE.format(data="PAIRS"))
        answers = referee.contest(bank, model, list(examples), task, stopping, progress)
    else:
        way = next(way for way in WAYS if way.suits(model, task))
        answers = way.answer(bank, model, list(examples), task, stopping, progress)
    return replace(answers, seconds=time.perf_counter() - begun)


def predict_without_base(adapter: Adapter, examples: Sequence[Example], task: Task) -> Answers:
    """Ask an adapter that does without the base: one with a classifier of words, or one that looks up.

    Its answers are those that `predict` gives behind any base; no prompt is rendered.
    """
    begun, scores = time.perf_counter(), None
    asked = [tuple(question(e)) for e in examples]
    if adapter.remote is not None:
        texts = [adapter.remote.ask(messages, Decoding()).text for messages in asked]
        texts = [_chosen(text, task, e) for text, e in zip(texts, examples, strict=True)]
    else:
        classifier: Any = adapter.classifier
        prompts = [Prompt((), messages) for messages in asked]
        scores = _label_scores(classifier, None, -1, prompts)
        texts = [max(s, key=lambda label: s[label]) for s in scores]
    return Answers(texts, scores, seconds=time.perf_counter() - begun)


# --- by choice among labels, or among what each row offers ------------------------------------------


def _choose(bank, model, examples, task, stopping, progress) -> Answers:
    prompts = [model.prompt(question(e)).ids for e in examples]
    offered = [task.labels or e.choices for e in examples]
    distinct = list(dict.fromkeys(label for labels in offered for label in labels))
    ids = _replies(model, question(examples[0]), distinct) if examples else {}
    items = [
        Item(p, told_apart([ids[label] for label in labels], model.template.stop_ids))
        for p, labels in zip(prompts, offered, strict=True)
    ]
    _fit(bank, model, [len(i.prompt) + max(map(len, i.answers)) for i in items], examples)
    scores = score(
        bank, model.slot, items, stopping=stopping,
        progress=_counted(progress, len(items), sum(map(len, offered))),
    )  # fmt: skip
    found = [
        dict(zip(labels, values, strict=True)) for labels, values in zip(offered, scores, strict=True)
    ]
    texts = [max(s, key=lambda label: s[label]) for s in found]
    return Answers(texts, found, sum(map(len, prompts)), len(prompts))


def _replies(
    model: ServedModel, messages: Sequence[Message], labels: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Encode each label as a reply, with the end of turn.

    Prompt and reply are encoded apart, so they are the same behind every prompt, and `messages` are
    any question.
    """
    start = len(model.template.prompt(messages))
    found = {}
    for label in labels:
        example = Example((*messages, {"role": "assistant", "content": label}))
        found[label] = model.template.render(example).ids[start:]
    return found


# --- by the model's classifier --------------------------------------------------------------------


def _classify(bank, model, examples, task, stopping, progress) -> Answers:
    classifier, tokens = model.classifier, 0
    found: list[Scores] = []
    for low in range(0, len(examples), MAX_CLASSIFIED):
        if stopping is not None and stopping():
            raise Interrupted
        prompts = [model.prompt(question(e)) for e in examples[low : low + MAX_CLASSIFIED]]
        tokens += sum(len(p.ids) for p in prompts)
        found += _label_scores(classifier, bank, model.slot, prompts)
        if progress is not None:
            progress(len(found), len(examples))
    texts = [max(s, key=lambda label: s[label]) for s in found]
    return Answers(texts, found, tokens, len(found))


def _label_scores(classifier: Any, bank: Any, slot: int, prompts: Sequence[Prompt]) -> list[Scores]:
    with torch.inference_mode():
        told = classifier.probabilities(bank, slot, prompts)
    rows = told.double().clamp(min=1e-300).log().tolist()
    return [dict(zip(classifier.labels, row, strict=True)) for row in rows]


# --- by reading what stands there -----------------------------------------------------------------


def _read(bank, model, examples, task, stopping, progress) -> Answers:
    """Score how likely the texts, or the rows' replies that are to be learnt, are to the model."""
    items, owners, tokens = [], [], 0
    room = room_of(bank, model)
    for i, example in enumerate(examples):
        if example.text is None:
            row = model.template.render(as_seen(model, question(example), example))
            _fit(bank, model, [len(row.ids)], [example])
            found = replies_of(row)
        else:
            row = model.template.render(example)
            windows = (row.ids[a : a + room] for a in range(0, len(row.ids), room))
            found = [Item(ids[:1], (ids[1:],)) for ids in windows if len(ids) > 1]
        items += found
        owners += [i] * len(found)
        tokens += len(row.ids)
    scores = score(
        bank, model.slot, items, stopping=stopping, progress=_counted(progress, len(items), len(items))
    )
    told = [{"log_likelihood": 0.0, "tokens": 0.0} for _ in examples]
    for i, item, (value,) in zip(owners, items, scores, strict=True):
        told[i]["log_likelihood"] += value
        told[i]["tokens"] += len(item.answers[0])
    return Answers([""] * len(told), told, tokens, 0)


# --- by comparing two replies ----------------------------------------------------------------------


def _compare(bank, model, examples, task, stopping, progress) -> Answers:
    """Score both replies of each example; the answer is the better one's text."""
    scores, tokens = compared(bank, model, examples, stopping, progress)
    texts = [
        (e.messages if s["chosen"] >= s["rejected"] else e.rejected)[-1]["content"]
        for e, s in zip(examples, scores, strict=True)
    ]
    return Answers(texts, scores, tokens, 0)


# --- by generating --------------------------------------------------------------------------------


def generated(bank, model, examples, task, stopping, progress, like=None) -> Answers:
    """Draw answers, at most twice as long as the longest reply of `like`, the examples by default."""
    talk = model.conversation
    samples = 1 if talk is None or talk.ranks else talk.samples  # the engine ranks by itself
    decoding = decoding_for(model, like or examples)
    engine = _engine(bank, model, samples * len(examples))
    requests = []
    for example in examples:
        one = step_request(engine, model, question(example), decoding)
        for i in range(samples):
            heat = talk.temperature if talk is not None and samples > 1 else 0.0
            drawn = Decoding(decoding.max_tokens, heat, 1.0, i, decoding.stop)
            requests.append(replace(one, decoding=drawn))
    done = engine.generate(
        requests, stopping=stopping, progress=_counted(progress, len(examples), len(requests))
    )
    texts = []
    for low in range(0, len(done), samples):
        whole = talk is None or kinds.of(task).calls  # calls are the answer
        read = [model.canonical(c.text) for c in done[low : low + samples]]
        if not whole:
            read = [talk.answer(text) for text in read]
        read = [_chosen(text, task, examples[low // samples]) for text in read]
        texts.append(read[0] if samples == 1 else talk.vote(read))
    prompt, completion = (
        sum(getattr(c, f"{x}_tokens") for c in done) for x in ("prompt", "completion")
    )
    return Answers(texts, None, prompt, completion)


def _chosen(text: str, task: Task, example: Example) -> str:
    """What a text says: the one that it names of those offered, where the task offers any."""
    return as_label(text, task.labels or example.choices) if kinds.of(task).chooses else text


def _engine(bank: Bank, model: ServedModel, requests: int) -> Engine:
    engine = Engine(bank, {model.name: model}, max_batch=max(1, min(requests, MAX_BATCH)))
    engine.arrange()
    return engine


def _call_tools(bank, model, examples, task, stopping, progress) -> Answers:
    """Have the model's tools called, all examples side by side; the answer is what it says behind."""
    talk, decoding = model.conversation, decoding_for(model, examples)
    engine = _engine(bank, model, len(examples))
    asked = [e.before_calls if e.messages else question(e) for e in examples]
    found = take_steps(
        engine, model, asked, decoding, stopping=stopping,
        progress=_counted(progress, len(examples), len(examples)),
    )  # fmt: skip
    texts = [talk.answer(model.canonical(one.text)) for one in found]
    texts = [_chosen(text, task, e) for text, e in zip(texts, examples, strict=True)]
    return Answers(
        texts, None, sum(one.prompt_tokens for one in found),
        sum(one.completion_tokens for one in found), calls=[_calls(one.turns) for one in found],
    )  # fmt: skip


def _calls(turns: Sequence[Message]) -> Calls:
    made = [m["content"] for m in turns if not m.get("result")]
    return Calls("\n".join(made), len(made), len(turns) - len(made))


# --- behind an API ---------------------------------------------------------------------------------


def passed_on(bank, model, examples, task, stopping, progress) -> Answers:
    """Ask an API: labels by the first token's log-probabilities where told, else as the text says."""
    if metrics.by_likelihood(task):
        raise ConfigError(f"'{model.name}' is behind an API, which does not say how likely a text is")
    labels = task.labels if kinds.of(task).labelled else ()
    asked = [model.messages(question(e)) for e in examples]
    said = ask_all(
        model.remote, asked, [decoding_for(model, examples)] * len(asked), first=bool(labels),
        stopping=stopping, progress=_counted(progress, len(examples), len(examples)),
    )  # fmt: skip
    texts = [s.text if model.conversation is None else model.conversation.answer(s.text) for s in said]
    scores: list[Scores | None] = []
    for i, one in enumerate(said):
        found = label_scores(one.first, labels, plain) if labels else None
        scores.append(found)
        if found:
            texts[i] = max(found, key=lambda label: found[label])
        else:
            texts[i] = _chosen(texts[i], task, examples[i])
    known = [s for s in scores if s is not None]
    return Answers(
        texts, known if known and len(known) == len(said) else None,
        sum(s.prompt_tokens for s in said), sum(s.completion_tokens for s in said),
    )  # fmt: skip


# --- which way suits ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """Way of predicting.

    Attributes:
        suits: whether it answers such a task with such a model.
        answer: (bank, model, examples, task, stopping, progress) -> what `predict` returns.
    """

    suits: Callable[[ServedModel, Task], bool]
    answer: Callable[..., Answers]


def _must_generate(model: ServedModel, task: Task) -> bool:
    talk = model.conversation
    return not kinds.of(task).chooses or (talk is not None and talk.max_tokens is not None)


# The first that suits is taken.
WAYS = (
    Way(lambda model, task: kinds.of(task).compares, _compare),
    Way(lambda model, task: model.remote is not None, passed_on),
    Way(lambda model, task: metrics.by_likelihood(task), _read),
    Way(lambda model, task: bool(model.labels) and kinds.of(task).labelled, _classify),
    Way(lambda model, task: has_tools(model) and not kinds.of(task).calls, _call_tools),
    Way(_must_generate, generated),
    Way(lambda model, task: True, _choose),
)


# --- what fits ------------------------------------------------------------------------------------


def room_of(bank: Bank, model: ServedModel) -> int:
    """Count the tokens that the context holds behind what the adapter puts in front."""
    return bank.context - bank.positions(model.slot)


def _fit(bank: Bank, model: ServedModel, lengths: Sequence[int], examples: Sequence[Example]) -> None:
    room = room_of(bank, model)
    places = [i for i, n in enumerate(lengths) if n > room]
    if places:
        longest = max(places, key=lambda i: lengths[i])
        n, example = lengths[longest], examples[longest]
        fault = ContextExceeded(
            f"{counted(places, 'row does', 'rows do')} not fit into the context of '{model.name}' "
            f"({room} tokens): "
            f"{example.origin or 'the longest'} has {n} tokens with its prompt; leave them out "
            "or use a shorter prompt"
        )
        fault.places = frozenset(places)
        raise fault


def _counted(progress: Progress | None, total: int, answers: int) -> Callable[[int], None] | None:
    """Turn counts of single answers, of how many there are, into items done."""
    if progress is None:
        return None
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(total * done // max(1, answers), total)

    return count
