"""Remote teacher: a model behind an OpenAI-compatible API; every answer is kept when it comes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rung.artefacts.licences import classify
from rung.errors import ConfigError
from rung.remote.openai import OpenAIApi
from rung.synthesis import cache
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.teacher import Answer, Question, Teacher
from rung.types import Decoding


class RemoteTeacher(Teacher):
    """A model behind an API.

    Args:
        name: `MODEL@URL`, or a URL where the server has one model alone.

    Raises:
        ConfigError: for what is no address. RemoteFault: where a bare URL is asked and does not answer.
    """

    def __init__(self, name: str, knobs: SynthKnobs):
        super().__init__()
        self.name = name
        model, _, url = name.rpartition("@")
        self.api = OpenAIApi(
            url, model, knobs.key_variable, knobs.price_in, knobs.price_out, knobs.at_once,
            knobs.timeout, url_flag="--teacher", model_flag="--teacher",
        )  # fmt: skip
        if not model:
            self.api.model = self._only_model()
            self.name = f"{self.api.model}@{url}"  # rows say who wrote them
        self.digest = f"{self.api.model}@{self.api.url}"
        self.licence = knobs.teacher_licence or "proprietary"
        self.licence_class = classify(self.licence)

    def _only_model(self) -> str:
        with self.api.faults():
            names = [model.id for model in self.api.client.models.list()]
        if len(names) == 1:
            return names[0]
        raise ConfigError(
            f"{self.api.url} has {', '.join(names) or 'no model'}: write MODEL@{self.api.url}"
        )

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        pool = ThreadPoolExecutor(self.api.at_once, "rung-teacher")
        try:
            return list(pool.map(self._one, questions))
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, question: Question) -> Answer:
        key = cache.key_of([question.digest(self.digest)])
        found = cache.read(key)
        if found:
            self.usage.kept += 1
            return found[0]
        decoding = Decoding(
            max_tokens=question.max_tokens, temperature=question.temperature, top_p=question.top_p,
            seed=question.seed,
        )  # fmt: skip
        said = self.api.ask(question.messages, decoding, schema=question.schema)
        answer = Answer(said.text, said.finish_reason, said.prompt_tokens, said.completion_tokens)
        cache.write(key, [answer])
        self.usage.prompt_tokens += said.prompt_tokens
        self.usage.completion_tokens += said.completion_tokens
        self.usage.money += self.api.money(said.prompt_tokens, said.completion_tokens)
        return answer
