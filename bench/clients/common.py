"""What the clients' scripts share: the task, and a report that fails when a round does.

A script is run as `python NAME.py URL MODEL`, in an environment of its own that run.sh makes.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

URL, MODEL = sys.argv[1:3]
BASE, KEY = f"{URL}/v1", "none"
QUESTION = "Name a colour."
TEXTS = ["a red apple", "a green pear"]


def run(rounds: dict[str, Callable[[], object]]) -> None:
    """Do each round and say how it went; the exit status counts those that failed.

    A round fails by raising, so it asserts what it must see.
    """
    failed = 0
    for name, work in rounds.items():
        try:
            work()
            print(f"  {name}: ok", flush=True)
        except Exception:
            failed += 1
            print(f"  {name}: FAILED\n{traceback.format_exc(limit=-3)}", flush=True)
    sys.exit(failed)
