"""One process on this machine.

rung tune coach --data quotes.jsonl --launch local
"""

from __future__ import annotations

from rung.launch import base


class Launch(base.Launch):
    summary = "in this process"
