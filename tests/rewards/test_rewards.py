"""What each reward scores, and what it refuses."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung import rewards
from rung.errors import ConfigError, DataError
from rung.rewards import Answer, Context, make, scored
from rung.rewards.extraction import final_answer, number
from rung.rewards.overlap import MEASURES, measured


def answer(text: str, gold: str | None = None, **more) -> Answer:
    return Answer(prompt=({"role": "user", "content": "How many?"},), text=text, gold=gold, **more)


def score(spec: str, text: str, gold: str | None = None, **more) -> float | None:
    return make([spec]).score([answer(text, gold, **more)])[0]


# --- numbers and final answers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("First 3 + 4 = 7, so the answer is 12", 12),
        ("12 apples", 12),
        ("-12", -12),
        ("The answer is 72.", 72),
        ("The answer is 12. Wait, that is wrong: the answer is 13.", 13),
        ("First answer: 3. Final answer: 4", 4),
        ("The answer is what the answer is: 5", 5),
        ("$72$", 72),
        ("**72**", 72),
        ("$$72.50$$", 72.5),
        (r"\boxed{72 apples}", 72),
        (r"\boxed{1} so \boxed{72}", 72),
        (r"it is \boxed{\frac{3}{4}}", 0.75),
        ("#### 1,200", 1200),
        ("#### 3 + 4 = 7", 7),
        ("It costs $1,234.50 in all", 1234.5),
        ("Answer: 1 1/2 cups", 1.5),
        ("10-12", 12),
        ("<think>9 or 10</think> 8", 8),
        ("<think>3 + 4</think> Tom had 3 apples, bought 4, so he has 7 apples.", 7),
        ("<think>3 or 4</think> I cannot tell.", None),
        ("<think>3, or 4", 4),
        ("<answer>5</answer> and 6 more words", 5),
        ("\u22125", -5),
        ("x = -0.5", -0.5),
        (".25", 0.25),
        ("nothing", None),
        ("", None),
        ("1/0", None),
    ],
)
def test_the_number_of_an_answer(text, value):
    assert number(text) == value


FORMS = ["{}", "{:,}", "#### {}", "The answer is {:,}.", "\\boxed{{{}}}"]
PIECES = ["1", "1,", "1,111", "\\boxed{", "#### ", "<think>", "1/", "answer is "]


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["{}", "{:,}", "#### {}", "The answer is {:,}.", "\\boxed{{{}}}"]),
)
def test_whole_numbers_are_read_however_they_are_written(value, form):
    assert number(f"First 17, then 4.\n{form.format(value)}") == value


@given(st.integers(-999, 999), st.integers(1, 999))
def test_fractions_are_read(above, below):
    assert number(f"#### {above}/{below}") == float(Fraction(above, below))


@given(st.text(max_size=200))
def test_any_text_can_be_read(text):
    value = number(text)
    assert value is None or math.isfinite(value)
    assert isinstance(final_answer(text), str)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", PIECES)
def test_long_answers_take_no_time(piece):
    number(piece * 20_000)


@pytest.mark.parametrize(
    ("text", "right"),
    [('"Paris."', 1.0), ("'paris'!", 1.0), ("The answer is Rome. No, the answer is Paris.", 1.0),
     ("The answer is Paris. No, the answer is Rome.", 0.0)],
)  # fmt: skip
def test_an_exact_answer_may_stand_in_quotes_and_be_corrected(text, right):
    assert score("exact", text, "Paris") == right
    assert score("exact", "5", ".5") == 0.0


def test_thinking_aloud_is_not_punished():
    texts = ["12", "3 and 4 make 7, 5 more make 12", "It is 12 apples", "13"]
    assert [score("number", t, "#### 12") for t in texts] == [1.0, 1.0, 1.0, 0.0]
    assert score("number:0.1", "13", "12") == 1.0
    assert score("number", "12", "twelve") is None and score("number", "12") is None
    assert [score("exact", t, "Paris") for t in ["The answer is paris.", "Rome"]] == [1.0, 0.0]


# --- the others -------------------------------------------------------------------------------------


def test_patterns_lengths_and_forms():
    assert score("regex:(?i)thank", "Thanks") == 1.0 and score("regex:^thank", "No thanks") == 0.0
    assert score("format", "<think>a</think>\n<answer>b</answer>") == 1.0
    assert score("format", "<answer>b</answer>") == 0.0 and score("format:a+", "aaa ") == 1.0
    assert [score("length:10", "x" * n) for n in (0, 10, 15, 20, 99)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert [score("length:10-20", "x" * n) for n in (0, 5, 10, 20, 30)] == [0.0, 0.5, 1.0, 1.0, 0.5]
    assert score("length:5t", "words", tokens=5) == 1.0 and score("length:5t", "words") is None
    assert score("length:10", "x", truncated=True) == 0.0


def test_json_that_keeps_to_a_schema(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(
        json.dumps({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}})
    )
    texts = ['{"a": 1}', '```json\n{"a": 1}\n```', '{"a": "x"}', "a: 1"]
    assert [score(f"schema:{path}", t) for t in texts] == [1.0, 1.0, 0.1, 0.0]


def test_words_of_a_list(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("good\t2.0\t0.5\t[2, 2]\nbad\t-2.0\n# a comment\n\n")
    texts = ["Good day", "bad", "good bad", "so so"]
    good, bad, both, none = (score(f"lexicon:{path}", t) for t in texts)
    assert 0 < good < 1 and bad == -good and both == none == 0.0
    assert score(f"lexicon:{path}", "not good") == -good == score(f"lexicon:-{path}", "good")
    assert score(f"lexicon:{path}", "It isn\u2019t good") == -good


@given(st.sampled_from(MEASURES), st.text(max_size=40), st.text(min_size=1, max_size=40))
def test_similarities_are_shares(name, text, reference):
    (value,) = measured(name, [text], [reference])
    assert 0.0 <= value <= 1.0 + 1e-9


@pytest.mark.parametrize("name", MEASURES)
def test_equal_texts_are_nearest(name):
    text = "the cat sat on the mat and slept"
    same, other = measured(name, [text, "a dog ran off in the rain today"], [text, text])
    assert same > 0.99 and other < 0.5 and score(f"similarity:{name}", text) is None


def test_rouge_of_our_own_is_that_of_the_package():
    from rung.rewards.overlap import _rouge

    text, reference = "the cat sat on a mat today", "the cat is on the mat today"
    for size in (1, 2):
        (theirs,) = measured(f"rouge_{size}", [text], [reference])
        assert _rouge(size)(text, reference) == pytest.approx(theirs)


def test_a_file_adds_rewards_up(tmp_path):
    path = tmp_path / "mix.yaml"
    path.write_text("- number\n- reward: length:10\n  weight: 0.5\n")
    reward = make([str(path)])
    answers = [answer("12", "12"), answer("x" * 20, "12"), answer("short", None)]
    assert reward.score(answers) == [1.5, 0.0, 0.5]
    assert make(["number", "regex:x"]).score(answers) == [1.0, 1.0, 0.0]
    assert make(["number", "exact"]).score(answers)[2] is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("numbr", "did you mean 'number'"),
        ("number:x", "must be a number"),
        ("exact:x", "takes nothing behind a colon"),
        ("regex", "needs a pattern"),
        ("regex:(", "is no pattern"),
        ("length:ten", "must be as length:200"),
        ("length:0", "must be as length:200"),
        ("schema:/nowhere.json", "cannot read"),
        ("similarity:blue", "unknown similarity 'blue'"),
        ("lexicon:/nowhere.txt", "cannot read"),
        ("python:os", "must be python:MODULE:FUNCTION"),
        ("python:/nowhere.py:f", "no file '/nowhere.py'"),
        ("python:nowhere_at_all:f", "No module named 'nowhere_at_all'"),
        ("python:math:nothing", "no function 'nothing'"),
        ("model:judge", "no model can be loaded"),
        ("/nowhere.yaml", "no file '/nowhere.yaml'"),
    ],
)
def test_mistakes_are_one_line(spec, said):
    with pytest.raises(ConfigError) as fault:
        make([spec])
    assert (
        said in str(fault.value)
        and str(fault.value).startswith("--reward")
        or "Python" in str(fault.value)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1", "must hold a list"),
        ("- weight: 1", "item 1 must be 'reward: SPEC'"),
        ("- reward: number\n  wieght: 2", "item 1 has 'wieght'"),
        ("- reward: number\n  weight: big", "must be a number"),
        ("- mix.yaml", "cannot read"),
        ("- [", "is no YAML"),
    ],
)
def test_mistakes_of_a_file_are_one_line(text, said, tmp_path):
    (tmp_path / "sum.yaml").write_text(text)
    with pytest.raises(ConfigError, match="--reward") as fault:
        make([str(tmp_path / "sum.yaml")])
    assert said in str(fault.value)


def test_a_figure_that_is_not_finite_is_refused():
    class Odd(rewards.Reward):
        def score(self, answers):
            return [math.nan]

    with pytest.raises(DataError, match="must be finite"):
        scored(Odd("odd"), [answer("x")])
    with pytest.raises(DataError, match="1 figures for 2"):
        scored(Odd("odd"), [answer("x"), answer("y")])


def test_every_reward_says_what_it_is():
    for one in rewards.registry.all():
        assert one.summary and (one.argument_help or not one.needs_argument)


def test_a_model_that_scores():
    asked = []

    def model(name):
        return lambda conversations: [asked.append((name, c)) or 0.5 for c in conversations]

    assert make(["model:judge"], Context(model=model)).score([answer("x")]) == [0.5]
    assert asked == [("judge", answer("x").conversation)]
