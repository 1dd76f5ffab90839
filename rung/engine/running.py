"""One request inside the engine: its ids so far, its randomness, and the text it has given out."""

from __future__ import annotations

from rung.engine.models import ServedModel
from rung.engine.request import Completion, FinishReason, Generation, Token
from rung.engine.sampler import Draw
from rung.engine.stops import StopTexts
from rung.forward.trie import Sequence


class Running:
    """A request from its submission to its last event.

    Args:
        generation: what the client holds.
        model: who answers.
        front: entries that the model's adapter puts in front of the prompt.
        max_tokens: tokens to draw at most, already bounded by the context.
    """

    def __init__(self, generation: Generation, model: ServedModel, front: int, max_tokens: int):
        request = generation.request
        self.generation, self.slot, self.front = generation, model.slot, front
        self.lane = -1
        self.ids = list(request.ids)  # the prompt and what was drawn
        self.prompt = len(self.ids)
        self.end = self.prompt + max_tokens
        self.draw = Draw(request.decoding)
        self.stop_ids = frozenset(model.stop_ids if request.stop_ids is None else request.stop_ids)
        self._decoder = model.template.decoder()
        self._stops = StopTexts(request.decoding.stop)
        self._text: list[str] = []

    @property
    def sequence(self) -> Sequence:
        return Sequence(tuple(self.ids), slot=self.slot)

    @property
    def entries(self) -> int:
        """Cache entries needed to read all ids."""
        return self.front + len(self.ids)

    def accept(self, token: int) -> bool:
        """Take a drawn token and tell the client; True when it was the last."""
        self.ids.append(token)
        reason: FinishReason | None = None
        if token in self.stop_ids:
            text, reason = self._flush(), "stop"
        else:
            text = self._stops.push(self._decoder.push(token))
            if not self._stops.hit and len(self.ids) >= self.end:
                text, reason = text + self._flush(), "length"
        if self._stops.hit:
            reason = "stop"
        self._text.append(text)
        self.generation.emit(Token(token, text))
        if reason:
            self.finish(reason)
        return reason is not None

    def _flush(self) -> str:
        text = self._stops.push(self._decoder.flush())
        return text if self._stops.hit else text + self._stops.flush()

    def finish(self, reason: FinishReason) -> None:
        """The last event: the whole answer."""
        drawn = tuple(self.ids[self.prompt :])
        self.generation.emit(Completion("".join(self._text), drawn, reason, self.prompt))

    def fail(self, fault: Exception) -> None:
        """The last event: what went wrong."""
        self.generation.emit(fault)
