"""The journal of a batch: every answered line as the client will read it, written as it comes.

It is what a batch goes on from after its server has ended, however it ended.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

Error = tuple[str, str]  # code and message


def written(custom_id: str, response: dict[str, Any] | None, error: Error | None = None) -> bytes:
    """One line of output or errors, as OpenAI writes it.

    Args:
        response: `status_code`, `request_id` and `body`; None where nothing was asked.
    """
    line = {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": custom_id,
        "response": response,
        "error": None if error is None else {"code": error[0], "message": error[1]},
    }
    return json.dumps(line).encode() + b"\n"


def succeeded(response: dict[str, Any]) -> bool:
    """Whether an answer belongs to the output; all others are errors."""
    return response["status_code"] == 200


class Journal:
    """An append-only file of answered lines.

    Args:
        path: of the file, which is made where there is none; a last line that is cut short is removed.

    Attributes:
        done: custom_ids of the lines that were answered. completed, failed: how many of them were.

    Raises:
        OSError: where it cannot be read or written.
    """

    def __init__(self, path: Path):
        self.path, self.done = path, set[str]()
        self.completed = self.failed = 0
        path.touch()
        whole = 0
        for raw, said in _lines(path):
            whole += len(raw)
            self._count(said["custom_id"], said["response"])
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)

    def _count(self, custom_id: str, response: dict[str, Any] | None) -> None:
        self.done.add(custom_id)
        if response is not None and succeeded(response):
            self.completed += 1
        else:
            self.failed += 1

    def add(self, custom_id: str, response: dict[str, Any] | None, error: Error | None = None) -> None:
        """Append a line, which is on disk when this returns."""
        if custom_id in self.done:
            return
        line = written(custom_id, response, error)
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise
        self._count(custom_id, response)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class Usage:
    """Tokens of answers, in the words of batches, whatever those of the endpoint."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    seen: bool = field(default=False)

    def add(self, told: dict[str, Any]) -> None:
        """Count the `usage` of one answer."""
        self.seen = True
        self.input += told.get("prompt_tokens", told.get("input_tokens", 0))
        self.output += told.get("completion_tokens", told.get("output_tokens", 0))
        read = told.get("prompt_tokens_details") or told.get("input_tokens_details") or {}
        drawn = told.get("completion_tokens_details") or told.get("output_tokens_details") or {}
        self.cached += read.get("cached_tokens", 0)
        self.reasoning += drawn.get("reasoning_tokens", 0)

    def shown(self) -> dict[str, Any]:
        """As OpenAI writes it; empty where no answer told any."""
        if not self.seen:
            return {}
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }


def divide(
    path: Path, output: Path, errors: Path, left: Iterable[str] = (), why: Error | None = None
) -> dict[str, Any]:
    """Divide a journal into a file of what succeeded and one of errors, both written anew.

    Args:
        left: custom_ids of lines that were not answered; why: what is told of them.

    Returns:
        the usage of all answers.
    """
    usage = Usage()
    with output.open("wb") as good, errors.open("wb") as bad:
        for raw, said in _lines(path):
            response = said["response"]
            fine = response is not None and succeeded(response)
            if fine and isinstance(told := response["body"].get("usage"), dict):
                usage.add(told)
            (good if fine else bad).write(raw)
        for custom_id in left:
            bad.write(written(custom_id, None, why))
        _sync(good)
        _sync(bad)
    return usage.shown()


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines of a journal as they are and as JSON, up to one that was cut short."""
    with path.open("rb") as content:
        for raw in content:
            try:
                said = json.loads(raw)
            except ValueError:
                return
            if raw.endswith(b"\n"):
                yield raw, said


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
