"""What a method computes, counted: tokens read, written and trained on, before anything runs.

Counts follow from the shape of the data and the method's settings alone. What they take on a machine is
the forecast's business.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a task on a base that costs follow from.

    Attributes:
        rows: of training. held: rows of validation that a method may choose by.
        prompt: mean tokens of a prompt beyond `shared`, which all prompts begin with.
        reply: mean tokens of a reply with its end.
        choices: tokens of all answers that a row is scored against; 0 where answers are generated.
        letters: mean characters of what is asked. labels: of a classification, else 0.
        layers: of the base. width: of its states. weights: parameters of its layers.
        head: operations of the output layer for a token, over those of all layers.
        schemas: tokens of the functions of `--tools`, in front of each prompt that tells of them.
        calls, results: mean tokens of a row's calls of these, and of what they gave.
        system: whether rows bring a system message of their own.
    """

    rows: int
    held: int
    prompt: float
    shared: float
    reply: float
    choices: float
    letters: float
    labels: int
    layers: int
    width: int
    weights: float
    head: float
    schemas: float = 0.0
    calls: float = 0.0
    results: float = 0.0
    system: bool = False

    def with_tools(self) -> Shape:
        """The same data for a model that calls tools before it replies."""
        return replace(
            self, shared=self.shared + self.schemas, prompt=self.prompt + self.results,
            reply=self.reply + self.calls, choices=0.0,
        )  # fmt: skip

    def part(self, rows: int, held: int) -> Shape:
        """The same data with fewer rows."""
        return replace(self, rows=min(rows, self.rows), held=min(held, self.held))

    @property
    def scored(self) -> float:
        """Tokens that scoring one row takes, the output layer counted."""
        return self.prompt + self.choices * (1 + self.head)

    @property
    def supervised(self) -> float:
        """Tokens of a row in training, the output layer counted."""
        return self.prompt + self.reply * (1 + self.head)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Counts of what is computed; they add up.

    Attributes:
        read: tokens through all layers of the base, forward. Training counts its backward pass in
            these units too.
        passes: calls of the base, each of which reads all weights.
        written: tokens generated, many requests side by side.
        encoded: tokens through a sentence encoder.
        fitted: operations of fits without the base, on one core.
        updated: parameters that the optimiser changes, times its steps.
    """

    read: float = 0.0
    passes: float = 0.0
    written: float = 0.0
    encoded: float = 0.0
    fitted: float = 0.0
    updated: float = 0.0

    def __add__(self, other: Workload) -> Workload:
        return Workload(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def __mul__(self, times: float) -> Workload:
        return Workload(**{f.name: times * getattr(self, f.name) for f in fields(self)})


PASS_TOKENS = 2048  # of one forward pass over many rows
ENCODER_TOKENS = 0.3  # of a sentence encoder for each character
ANSWERS_AT_ONCE = 64  # requests that generate side by side


def scoring(shape: Shape, extra: float = 0.0) -> Workload:
    """One row answered by the base: scored against what is offered, or generated.

    Args:
        extra: tokens that a method puts into each prompt.
    """
    if shape.choices:
        read = shape.scored + extra
        return Workload(read=read, passes=read / PASS_TOKENS)
    read = shape.prompt + extra
    # A step of generation is a pass that all requests of a batch share.
    steps = shape.reply / ANSWERS_AT_ONCE
    return Workload(read=read, written=shape.reply, passes=steps)


def training(
    shape: Shape, steps: int, batch: int, checks: int, backward: float, layers: float = 1.0
) -> Workload:
    """Gradient steps on batches of rows, and validations.

    Args:
        checks: validations, the one before the first step among them.
        backward: what a backward pass takes, in forward passes.
        layers: upper share of the base's layers that a step goes through; what enters them is computed
            once for every row, by the layers below.
    """
    seen = shape.part(steps * batch, shape.held)
    once = (1 - layers) * (seen.rows + seen.held) * (shape.prompt + shape.reply)
    tokens = steps * (batch * shape.supervised + shape.shared)
    held = checks * (shape.held * shape.supervised + shape.shared)
    every = steps * (1 + backward) + checks
    return Workload(
        read=once + layers * (tokens * (1 + backward) + held),
        passes=once / PASS_TOKENS + layers * every,
    )


def classifier_fit(rows: float, features: float, labels: float, fits: float) -> Workload:
    """Fits of a linear classifier by some tens of passes over the rows."""
    return Workload(fitted=fits * 60.0 * 2 * rows * features * max(labels, 2))
