"""The settings of asking and measuring models: how to load a base, how to draw, what to measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rung.config import as_dict, knob
from rung.errors import ConfigError
from rung.types import Decoding

STAGES = ("imitate", "judge", "policy")  # of an alignment, in their order
PARTS = ("test", "validation", "train", "all")


@dataclass
class LoadKnobs:
    """How the base is loaded."""

    group: ClassVar[str] = "loading"

    dtype: str = knob(
        "float32",
        "Precision of the base.",
        choices=("float32", "bfloat16", "float16", "auto"),
        foreign=("torch_dtype",),
    )
    device: str = knob(
        "auto", "Where to compute: auto, cpu, cuda, cuda:1 or mps.", foreign=("device_map",)
    )
    quantize: str | None = knob(
        None,
        "Keep the base in fewer bits; as the models were trained by default.",
        choices=("int8", "int4", "nf4", "none"),
        foreign=("load_in_4bit=nf4", "load_in_8bit=int8"),
    )


@dataclass
class ToolKnobs:
    """What the models may call."""

    group: ClassVar[str] = "tools"

    tools: list[str] = knob(
        [],
        "What may be called to answer: a .py file of functions, or mcp:COMMAND, an MCP server; give it "
        "again for more. What the model was made with by default.",
        metavar="FILE|mcp:COMMAND",
    )


@dataclass
class DecodingKnobs:
    """How an answer is drawn; what is not set is the model's own."""

    group: ClassVar[str] = "answers"

    system: str | None = knob(None, "The system message.")
    temperature: float | None = knob(None, "0 is greedy; the model's own by default.", least=0, most=2)
    top_p: float | None = knob(
        None, "Share of probability to draw from; the model's own by default.", least=0, most=1
    )
    seed: int | None = knob(None, "Makes a draw repeatable.")
    max_tokens: int | None = knob(
        None,
        "Tokens of an answer at most.",
        least=1,
        foreign=("max_new_tokens", "max_completion_tokens"),
    )

    strength: float | None = knob(
        None, "Of a steered model's vectors; the model's own by default.", least=-100, most=100
    )
    layers: list[int] = knob(
        [], "Layers in which a steered model steers; all of its own by default.", least=0
    )

    def __post_init__(self) -> None:
        if not -(2**63) <= (self.seed or 0) < 2**63:
            raise ConfigError("--seed must fit 64 bits")

    def over(self, own: Decoding) -> Decoding:
        """A model's own decoding with what is set here."""
        said = {k: v for k, v in as_dict(self).items() if k != "system" and v is not None}
        said["layers"] = tuple(self.layers) or own.layers
        return replace(own, **said)


@dataclass
class EvalKnobs:
    """What is measured, on which rows."""

    group: ClassVar[str] = "evaluation"

    metric: str | None = knob(None, "What counts; found from the data by default.")
    task: str | None = knob(None, "The kind of task; found from the data by default.")
    part: str = knob("test", "The rows to measure on.", choices=PARTS)
    items: int | None = knob(None, "Ask at most so many of them.", least=1)
    reward: list[str] = knob(
        [], "Score the answers by a reward, in place of a metric; give it again to add rewards up.",
        metavar="SPEC", foreign=("reward_funcs", "reward_model"),
    )  # fmt: skip
    strengths: list[float] = knob(
        [], "Measure steered models at each of these strengths, such as 0,0.5,1,2, with the perplexity "
        "of the rows' replies beside the metric.", least=-100, most=100,
    )  # fmt: skip
    judge: str | None = knob(
        None, "An OpenAI-compatible address that judges pairs of answers; for --metric win_rate also "
        "model:NAME of a reward model, or another reward.", metavar="SPEC|URL",
    )  # fmt: skip
    judge_model: str = knob("judge", "The judging model's name.")
    second_judge: str | None = knob(
        None, "Another judge of the same answers for --metric win_rate.", metavar="SPEC|URL"
    )
    against: str = knob(
        "base", "What win_rate holds answers against: the base's own, or the data's better or worse "
        "reply.", choices=("base", "chosen", "rejected"),
    )  # fmt: skip


@dataclass
class AlignKnobs:
    """What is aligned, with what."""

    group: ClassVar[str] = "alignment"

    demonstrations: str | None = knob(
        None, "Replies to imitate; without them training by rewards starts from the base.",
        metavar="SOURCE",
    )  # fmt: skip
    preferences: str = knob(
        "", "Pairs of a better and a worse reply, which the reward model learns.", metavar="SOURCE"
    )
    prompts: str | None = knob(
        None, "Prompts to train on by rewards; those of the preferences by default.", metavar="SOURCE"
    )
    by: str = knob("ppo", "The objective that learns from rewards: ppo, grpo or rloo.")
    base: str = knob("smollm2-135m", "The base model.")
    method: str = knob("lora", "How each stage adapts it.")
    dtype: str = knob(
        "auto", "Precision of the base.", choices=("auto", "float32", "bfloat16", "float16")
    )
    device: str = knob("auto", "Where to run: auto, cpu, cuda, cuda:1 or mps.")
    seed: int = knob(0, "Seed of every stage.", least=0, most=2**32 - 1)
    steps: int | None = knob(None, "Steps of training by rewards; an epoch by default.", least=1)
    answer_tokens: int = knob(64, "Tokens of an answer at most.", least=1)
