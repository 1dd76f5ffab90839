"""Declares the settings of a server, from which flags, `Limits` and `Settings` follow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from rung.config import knob
from rung.errors import ConfigError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass
class ServeKnobs:
    """How a server listens, what it loads, what it takes and who may ask."""

    group: ClassVar[str] = "serve"

    host: str = knob("127.0.0.1", "Address to listen on.")
    port: int = knob(8000, "Port; 0 takes a free one.", least=0, most=65535)
    base: str | None = knob(None, "A base to load: a name, a folder or a Hub id.")
    dtype: str = knob("float32", "Of the base: float32, bfloat16, float16 or auto.")
    device: str = knob("auto", "Where to compute: auto, cpu, cuda, cuda:1 or mps.")
    quantize: str | None = knob(
        None,
        "Keep the base in fewer bits: int8, int4, nf4 or none; as the models were trained by default.",
        choices=("int8", "int4", "nf4", "none"),
        metavar="TEXT",
    )
    max_batch: int = knob(32, "Requests answered at once.", least=1, most=1024)
    max_waiting: int = knob(256, "Requests in the queue; beyond it 429.", least=1, most=65536)
    memory: str | None = knob(
        None, "For keys and values, such as 4GB or 512MB; two fifths of what is free by default.",
        metavar="SIZE",
    )  # fmt: skip
    replicas: int = knob(
        1, "Processes that answer side by side behind this address, each with the base in memory.",
        least=1, most=64,
    )  # fmt: skip
    cluster: str | None = knob(
        None, "Start the replicas on a Ray cluster: local, or ray://HOST:PORT; here by default.",
        metavar="local|ADDRESS",
    )  # fmt: skip
    jobs: int = knob(1, "Tuning jobs and climbs that run at once; 0 takes none.", least=0, most=64)
    python_graders: bool = knob(
        False, "Run Python of clients who order reinforcement jobs, in a process with limits."
    )
    organisation: str = knob("rung", "Who makes the tuned models: a part of their names.")
    tools: list[str] = knob(
        [],
        "Tools that models may call here, beside those that were named when they were made: a .py file "
        "or mcp:COMMAND; may be repeated.",
        metavar="FILE|mcp:COMMAND",
    )
    stages: str | None = knob(
        None, "YAML that says which model has which checks, documents, moderation.", metavar="FILE"
    )
    moderation: str | None = knob(
        None, "Who judges texts: a classifier of linear_probe, or a function as module:function.",
        metavar="NAME",
    )  # fmt: skip
    guard: list[str] = knob(
        [], "Judge requests and answers of this model; * for all. May be repeated.", metavar="TEXT"
    )
    api_key: list[str] = knob(
        [], "Key that clients must send; may be repeated. Also `RUNG_API_KEY` in the environment.",
        metavar="TEXT",
    )  # fmt: skip
    max_body: float = knob(8.0, "Megabytes of a request.", least=0.001)
    max_file: float = knob(512.0, "Megabytes of an uploaded file.", least=0.001)
    max_responses: int = knob(
        10_000, "Model responses kept for each key; beyond it the oldest is deleted; 0 keeps none.",
        least=0, most=10_000_000,
    )  # fmt: skip
    timeout: float | None = knob(None, "Seconds within which an answer must be finished.", least=0.1)
    max_wait: float = knob(
        300.0, "Seconds that a request may wait in the queue; beyond it 429.", least=0.1
    )
    origin: list[str] = knob(
        [], "Web page that may ask from browsers, such as https://app.example; * for all. "
        "May be repeated; none by default.",
        metavar="ORIGIN",
    )  # fmt: skip
    alias: list[str] = knob(
        [], "A second name for a model, such as gpt-4o=coach. May be repeated.", metavar="NAME=MODEL"
    )
    template_setting: list[str] = knob(
        [], "A setting of the chat template that requests may give in `chat_template_kwargs`, such as "
        "enable_thinking. May be repeated; none by default.",
        metavar="NAME",
    )  # fmt: skip
    tls_certificate: str | None = knob(None, "Serve HTTPS with this certificate (PEM).", metavar="PATH")
    tls_key: str | None = knob(None, "The certificate's private key (PEM).", metavar="PATH")
    page: bool = knob(True, "Show the page for browsers at /.")
    log: bool = knob(False, "Write a JSON line for each request to stderr.")

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("--tls-certificate and --tls-key belong together: give both")
        if self.guard and self.moderation is None:
            raise ConfigError("--guard needs --moderation NAME, the classifier that judges")
        self.api_key = [key for key in self.api_key if key]
        _ = self.aliases
        _ = self.cache_bytes

    @property
    def aliases(self) -> dict[str, str]:
        """Second names of models -> the models.

        Raises:
            ConfigError: for what is not NAME=MODEL.
        """
        found: dict[str, str] = {}
        for said in self.alias:
            name, _, model = said.rpartition("=")
            if not name or not model:
                raise ConfigError(f"--alias is '{said}': give NAME=MODEL, such as gpt-4o=coach")
            found[name] = model
        return found

    @property
    def cache_bytes(self) -> int | None:
        """Bytes for keys and values; None where the engine decides."""
        if self.memory is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *(B|KB|MB|GB|TB)?", self.memory.strip(), re.IGNORECASE)
        if not found:
            raise ConfigError(f"--memory is '{self.memory}': give a size such as 4GB or 512MB")
        return int(float(found[1]) * UNITS[(found[2] or "B").upper()])

    @property
    def tls(self) -> tuple[str, str] | None:
        """Paths of certificate and private key; None serves plain HTTP."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return self.tls_certificate, self.tls_key
