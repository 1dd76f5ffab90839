"""What TF-IDF answers with when it is served: a label, or the answer to the most similar question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.evals.ngrams import Ngrams, probabilities
from rung.forward.classifier import Classifier
from rung.remote.model import RemoteAnswer, RemoteAnswerHandler, RemoteModel
from rung.types import Decoding, Message, Prompt, last_question

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.backbone import Backbone


def whole_question(messages: Sequence[Message]) -> str:
    """The last message of the user, or all that was said where no user spoke."""
    return last_question(messages) or "\n".join(m["content"] for m in messages)


class NgramClassifier(Classifier):
    """Classify the last user message by a linear layer over its n-grams; the base is not asked.

    Args:
        labels: L names. weight (L, width), bias (L,): decisions of one label against the others.
    """

    def __init__(self, labels: Sequence[str], ngrams: Ngrams, weight: Tensor, bias: Tensor):
        self.labels, self.ngrams = tuple(labels), ngrams
        self.weight, self.bias = weight, bias

    def parameters(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        """(N, labels) float32, each row summing to 1."""
        import torch

        if not prompts:
            return torch.empty(0, len(self.labels))
        x = self.ngrams.vectors([p.question for p in prompts])
        decisions = x @ self.weight.detach().cpu().numpy().T + self.bias.detach().cpu().numpy()
        return torch.from_numpy(probabilities(np.asarray(decisions))).float()


class NearestAnswer(RemoteModel):
    """Answer with the reply to the most similar question that is known; nothing is generated.

    Args:
        questions, answers: (N,) each, what is known.
        constant: always give the most frequent answer.
    """

    at_once = 1

    def __init__(self, questions: Sequence[str], answers: Sequence[str], constant: bool = False):
        self.questions, self.answers, self.constant = list(questions), list(answers), constant
        self.frequent = Counter(self.answers).most_common(1)[0][0]
        self._ngrams = Ngrams.of(self.questions)
        self._known = self._ngrams.vectors(self.questions)

    def nearest(self, texts: Sequence[str]) -> list[str]:
        """The answers to questions."""
        if self.constant or not self._ngrams.width:
            return [self.frequent] * len(texts)
        found = []
        for text in texts:
            alike = self._known @ self._ngrams.vectors([text]).T
            found.append(self.answers[int(alike.argmax())] if alike.nnz else self.frequent)
        return found

    def ask(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        *,
        heard: RemoteAnswerHandler | None = None,
        first: bool = False,
        schema: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> RemoteAnswer:
        text = self.nearest([whole_question(messages)])[0]
        if heard is not None:
            heard(text)
        return RemoteAnswer(text)

    def settings(self) -> Mapping[str, object]:
        """What it is made of, as plain data."""
        return {"questions": self.questions, "answers": self.answers, "constant": self.constant}
