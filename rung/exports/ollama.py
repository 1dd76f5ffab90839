"""Ollama: a folder that `ollama create` takes, a GGUF with a Modelfile.

rung export coach folder --to ollama --dtype q8_0
cd folder && ollama create coach -f Modelfile

TEMPLATE and every stop are always written: Ollama would take a template that it knows for one that is
nearly the same. Its own defaults (temperature 0.8, 2048 tokens of context) are replaced by the model's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError
from rung.exports import base, gguf, ollama_template

if TYPE_CHECKING:
    from torch import Tensor

FILE = "Modelfile"
MAX_CONTEXT = 8192  # tokens of num_ctx at most: Ollama takes memory for all of them


class Export(base.Export):
    summary = "a folder for `ollama create`: a GGUF with a Modelfile"
    tolerance = gguf.Export.tolerance

    def misfit(self, source: base.Source) -> str | None:
        reason = gguf.Export("gguf").misfit(source)
        if reason is None:
            try:
                _template(source)
            except ConfigError as fault:
                return str(fault)
        return reason

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        gguf.Export("gguf").write(source, folder, dtype)
        (folder / FILE).write_text(modelfile(source), encoding="utf-8")

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        return gguf.Export("gguf").logits(source, folder, dtype)

    def llama_files(self, source: base.Source, folder: Path, work: Path) -> base.LlamaFiles:
        return base.LlamaFiles(folder / gguf.FILE)


def modelfile(source: base.Source) -> str:
    """Write the Modelfile of a model.

    Raises:
        ConfigError: where its chat template cannot be expressed.
    """
    tokenizer, stops = gguf.tokenizer_of(source.folder)
    template = _template(source)
    lines = [f"FROM ./{gguf.FILE}", f"TEMPLATE {block(template.text())}"]
    if template.system is not None:
        lines.append(f"SYSTEM {block(template.system)}")
    tokens = dict.fromkeys(tokenizer.convert_ids_to_tokens(list(stops)))
    lines += [f"PARAMETER stop {line(token)}" for token in tokens]
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(source).items()]
    return "\n".join(lines) + "\n"


def _parameters(source: base.Source) -> dict[str, Any]:
    """How answers are drawn: as the model's own settings say, greedily where they say nothing."""
    settings = gguf.generation_settings(source.folder)
    drawn = bool(settings.get("do_sample"))
    context = min(
        MAX_CONTEXT, getattr(source.bank.model.config, "max_position_embeddings", MAX_CONTEXT)
    )
    found: dict[str, Any] = {"num_ctx": context, "repeat_penalty": 1.0}
    found["temperature"] = float(settings.get("temperature") or 1.0) if drawn else 0
    if drawn:
        found |= {"top_p": settings.get("top_p") or 1.0, "top_k": settings.get("top_k") or 0}
    return found


def _template(source: base.Source) -> ollama_template.OllamaTemplate:
    tokenizer, _ = gguf.tokenizer_of(source.folder)
    bos = tokenizer.bos_token or ""
    adds = bool(bos) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]

    def render(messages: Any) -> str:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    return ollama_template.converted(render, bos if adds else "")


def block(text: str) -> str:
    """A value over several lines. Raises ConfigError for one that would end it."""
    if '"""' in text or text.endswith('"'):
        raise ConfigError("a text with three quotes cannot stand in a Modelfile: use --to gguf")
    return f'"""{text}"""'


def line(text: str) -> str:
    """A value on one line, in quotes. Raises ConfigError for one that would end it."""
    if '"' in text or "\n" in text:
        raise ConfigError(f"the stop {text!r} cannot stand in a Modelfile: use --to gguf")
    return f'"{text}"'
