"""Rewards in Python: limits hold, and whatever goes wrong is one answer that is not scored."""

from __future__ import annotations

import pytest

from rung.errors import ConfigError
from rung.rewards import Answer, Context, make
from rung.rewards.sandbox import Sandbox

CODE = """
import os, sys, time

def f(text, gold=None, bonus=0):
    print("noise", flush=True)
    if text == "slow": time.sleep(60)
    if text == "huge": bytearray(8 << 30)
    if text == "gone": os._exit(3)
    if text == "none": return None
    if text == "odd": return float("nan")
    if text == "fault": raise KeyError("a\\nb")
    return len(text) + bonus
"""


def answer(text: str, **columns) -> Answer:
    return Answer(prompt=({"role": "user", "content": "q"},), text=text, columns=columns)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "scoring.py").write_text(CODE)
    return tmp_path / "scoring.py"


def test_what_goes_wrong_is_not_scored_and_told_once(place):
    told: list[str] = []
    reward = make([f"python:{place}:f"], Context(note=told.append))
    reward.sandbox.seconds = 1.0
    texts = ["ab", "slow", "huge", "gone", "none", "odd", "fault", "fault", "abc"]
    assert reward.score([answer(t) for t in texts]) == [2, None, None, None, None, None, None, None, 3]
    reward.close()
    assert len(told) == 3 and any("longer than 1 s" in line for line in told)
    assert any("MemoryError" in line for line in told) and all("not scored" in line for line in told)


def test_columns_arrive_where_they_are_taken(place):
    reward = make([f"python:{place}:f"])
    assert reward.score([answer("ab", bonus=3, other=1)]) == [5.0]
    reward.close()


def sandbox(source: str) -> Sandbox:
    return Sandbox({"source": source, "function": "grade"}, closed=True, megabytes=512)


def test_source_alone_is_graded():
    box = sandbox("def grade(sample, item):\n    return sample['output_text'] == item['gold']")
    call = {"plain": [{"output_text": "a"}, {"gold": "a"}], "named": {}}
    assert box.score([call]) == [1.0]
    box.close()


@pytest.mark.parametrize(
    "body",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "open('left.txt', 'w')",
        "import ctypes; ctypes.CDLL(None)",
    ],
)
def test_a_closed_process_does_nothing_outside(body):
    box = sandbox(f"def grade(sample, item):\n    {body}\n    return 1.0")
    assert box.score([{"plain": [{}, {}], "named": {}}]) == [None] and box.faults
    box.close()


def test_nothing_of_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "secret")
    box = sandbox("import os\ndef grade(sample, item):\n    return float('SECRET_KEY' in os.environ)")
    assert box.score([{"plain": [{}, {}], "named": {}}]) == [0.0]
    box.close()


def test_source_that_is_no_python_is_told():
    with pytest.raises(ConfigError, match="cannot be loaded: SyntaxError"):
        sandbox("def grade(").start()
