"""Metrics against the libraries and by hand."""

from __future__ import annotations

import json
import re
import string

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rung.errors import ConfigError, DataError
from rung.evals import metrics
from rung.evals.metrics import labels as label_metrics
from rung.evals.metrics import overlap, structure
from rung.evals.metrics import parsing as parsing_metrics
from rung.evals.metrics.base import Case
from rung.types import Task


def case(texts, references, kind="generation", metric="rouge_l", scores=None, labels=()):
    return Case(texts, references, scores, Task(kind, metric, tuple(labels)))


def figure(name, found):
    metric = metrics.get(name)
    return float(metric.finish(metric.statistics(found).sum(0)))


labelled = st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from("abc")), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(labelled)
def test_accuracy_and_macro_f1_equal_scikit_learns(pairs):
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    texts, references = map(list, zip(*pairs, strict=True))
    found = case(texts, references, "classification", "accuracy", labels=("a", "b", "c"))
    assert figure("accuracy", found) == pytest.approx(accuracy_score(references, texts))
    present = sorted(set(texts) - {"x"} | set(references))
    theirs = f1_score(references, texts, labels=present, average="macro", zero_division=0)
    assert figure("macro_f1", found) == pytest.approx(theirs)
    labels, table = label_metrics.confusion(found)
    expected = confusion_matrix(references, texts, labels=[*labels, "x"])[:3]
    assert np.array_equal(np.array(table), expected)


def test_accuracy_norm_divides_by_the_length_of_the_label():
    scores = [{"yes": -3.0, "no way": -4.0}]
    found = case(["yes"], ["no way"], "classification", "accuracy", scores, ("yes", "no way"))
    assert (figure("accuracy", found), figure("accuracy_norm", found)) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="scored"):
        figure("accuracy_norm", case(["yes"], ["yes"]))


TEXTS = ["the cat sat on the mat", "a dog", "", "hello there general", "one two three four five"]
REFERENCES = ["the cat is on the mat", "the dog", "x", "hello there", "one two three four six"]


def test_bleu_chrf_and_rouge_equal_their_libraries():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    found = case(TEXTS, REFERENCES)
    assert figure("bleu", found) == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert figure("chrf", found) == pytest.approx(sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score)
    items = overlap.sentence_bleu(overlap.bleu_counts(found))
    assert items[0] == pytest.approx(sacrebleu.sentence_bleu(TEXTS[0], [REFERENCES[0]]).score)
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    theirs = [scorer.score(r, t)["rougeL"].fmeasure for t, r in zip(TEXTS, REFERENCES, strict=True)]
    assert figure("rouge_l", found) == pytest.approx(np.mean(theirs))


@pytest.mark.parametrize(
    ("text", "reference", "exact", "f1"),
    [
        ("The Cat!", "cat", 1.0, 1.0),
        ("a black cat", "the cat", 0.0, 2 / 3),
        ("", "", 1.0, 1.0),
        ("", "cat", 0.0, 0.0),
        ("cat cat", "cat", 0.0, 2 / 3),
    ],
)
def test_squads_measures(text, reference, exact, f1):
    assert overlap.exact_match(text, reference) == exact
    assert overlap.token_f1(text, reference) == pytest.approx(f1)


def squad_normalised(text: str) -> list[str]:
    """Words as SQuAD's evaluation takes them, written down step by step from its description: lower
    case, then punctuation out, then the articles, then runs of blanks as one."""
    lowered = "".join(c for c in text.lower() if c not in set(string.punctuation))
    without = re.sub(r"(?<!\w)(?:the|an|a)(?!\w)", " ", lowered)
    return without.split()


def squad(text: str, reference: str) -> tuple[float, float]:
    """(Exact match, F1) of SQuAD's evaluation."""
    told, right = squad_normalised(text), squad_normalised(reference)
    if not told or not right:
        return float(told == right), float(told == right)
    common = sum(min(told.count(word), right.count(word)) for word in set(told))
    if not common:
        return 0.0, 0.0
    precision, recall = common / len(told), common / len(right)
    return float(told == right), 2 * precision * recall / (precision + recall)


SQUAD_PARTS = st.sampled_from(
    ["a", "an", "the", "The", "A", "cat", "Cats", "cat's", "U.S.", "1,000", "theatre", "banana", "-",
     "...", "'", "(the)", "an'", "--", "x-ray", "\t", "  ", "\n"]
)  # fmt: skip
SQUAD_TEXTS = st.lists(SQUAD_PARTS, max_size=8).map(" ".join)


@settings(max_examples=300)
@given(SQUAD_TEXTS, SQUAD_TEXTS)
def test_squads_measures_equal_the_official_evaluation(text, reference):
    # An answer of nothing but articles stays as it is here, where the official one makes it empty.
    for one in (text, reference):
        assume(squad_normalised(one) or not re.search(r"\w", one))
    exact, f1 = squad(text, reference)
    assert overlap.exact_match(text, reference) == exact
    assert overlap.token_f1(text, reference) == pytest.approx(f1)


SCRIPTS = {
    "Russian": "мы едем в порт и берём рыбу", "Chinese": "我们今天去港口买很多鱼",
    "Japanese": "今日は港へ行って魚を買います", "Thai": "วันนี้เราไปซื้อปลาที่ท่าเรือ",
    "Arabic": "نذهب اليوم إلى الميناء لشراء السمك", "Hindi": "हम आज बंदरगाह पर मछली खरीदते हैं",
    "Korean": "우리는 오늘 항구에 가서 생선을 산다", "Greek": "πάμε σήμερα στο λιμάνι για ψάρια",
    "pictographs": "🐟🚢⛵🌊",
}  # fmt: skip
ROUGES = ("rouge_1", "rouge_2", "rouge_l")


@pytest.mark.parametrize("script", SCRIPTS)
def test_equal_texts_of_any_script_are_equal_and_half_of_one_is_about_half(script):
    text = SCRIPTS[script]
    for name, best in (
        *((n, 1.0) for n in ROUGES),
        ("bleu", 100.0),
        ("chrf", 100.0),
        ("token_f1", 1.0),
    ):
        if script == "pictographs" and name in ("token_f1", "bleu"):
            continue  # blanks part their words
        assert figure(name, case([text], [text])) == pytest.approx(best), name
    half = text[: len(text) // 2]
    assert 0.3 < figure("rouge_1", case([half], [text])) < 0.95
    assert (
        figure("rouge_1", case([half], [SCRIPTS["Greek" if script == "Russian" else "Russian"]])) == 0
    )


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(categories=["L", "N", "M"]), min_size=1), st.sampled_from(ROUGES[::2]))
def test_whatever_has_letters_equals_itself(text, name):
    assert figure(name, case([text], [text])) == pytest.approx(1.0)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_rouge_of_ascii_is_the_librarys(text, reference):
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, text)
    for ours, name in zip(ROUGES, ("rouge1", "rouge2", "rougeL"), strict=True):
        assert figure(ours, case([text], [reference])) == pytest.approx(theirs[name].fmeasure)


def test_bleu_of_chinese_is_sacrebleus_with_its_own_tokenizer():
    import sacrebleu

    told, right = ["我们今天去港口买鱼"], ["我们昨天去港口买很多鱼"]
    theirs = sacrebleu.corpus_bleu(told, [right], tokenize="zh").score
    assert figure("bleu", case(told, right)) == pytest.approx(theirs)
    assert figure("bleu", case(["a dog"], ["a dog"])) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("text", "reference", "same"),
    [("我有船。", "我有船", 1.0), ("«Лодка»", "лодка", 1.0), ("", "a", 0.0), ("A", "a", 1.0),
     ("the", "a", 0.0)],
)  # fmt: skip
def test_punctuation_of_any_script_and_a_lone_article(text, reference, same):
    assert overlap.exact_match(text, reference) == same


def test_true_is_not_1_in_json():
    same = parsing_metrics.json_match
    assert same('{"a": [true, 1]}', '{"a": [true, 1.0]}') == 1.0
    assert same('{"a": true}', '{"a": 1}') == same("[0]", "[false]") == 0.0
    assert same("[1, NaN]", "[1, NaN]") == 1.0


@given(st.integers(0, 9999), st.integers(0, 9999), st.sampled_from("-−"))
def test_a_span_of_numbers_has_no_sign(low, high, dash):
    assert parsing_metrics.number(f"{low}{dash}{high}") == high
    assert parsing_metrics.number(f"it is {dash}{high}") == -high


@given(st.integers(-(10**9), 10**9), st.integers(0, 99))
def test_numbers_with_thousands_and_decimals_of_either_kind(whole, cents):
    value = abs(whole) + cents / 100
    english = f"{abs(whole):,}.{cents:02d}"
    european = english.translate(str.maketrans(",.", ".,"))
    for written in (english, european, f"{value:.2f}"):
        assert parsing_metrics.number(f"so it costs {written} now") == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10-12", 12.0),
        ("2024-01-05", 5.0),
        ("about 1e3", 1000.0),
        ("3,5 euros", 3.5),
        ("1, 2, 3", 3.0),
        (r"\boxed{\frac{1}{2}}", 0.5),
        ("-$5", -5.0),
        ("48/2 = 24 clips.\n#### 72", 72.0),
        ("So he pays $1,234.50.", 1234.5),
        ("The answer is 7, not 8.", 7.0),
        (r"thus \boxed{-3}", -3.0),
        ("a half, 1/2", 0.5),
        ("minus −4", -4.0),
        ("1/0", None),
        ("none", None),
    ],
)
def test_numbers_are_read_out_of_answers(text, number):
    assert parsing_metrics.number(text) == number


def test_patterns_and_json():
    assert parsing_metrics.regex_match("call 555-1234", r"\d{3}-\d{4}") == 1.0
    with pytest.raises(DataError, match="no pattern"):
        parsing_metrics.regex_match("x", "(")
    assert parsing_metrics.json_valid('```json\n{"a": 1}\n```') == 1.0
    assert parsing_metrics.json_valid("{a: 1}") == 0.0
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert [parsing_metrics.json_valid(t, schema) for t in ('{"a": 1}', '{"a": "1"}', "{}")] == [
        1.0,
        0.0,
        0.0,
    ]
    assert parsing_metrics.json_match('{"b": 2, "a": 1}', '{"a": 1, "b": 2}') == 1.0
    assert parsing_metrics.json_match("[1]", "[2]") == parsing_metrics.json_match("[", "[2]") == 0.0
    with pytest.raises(DataError, match="no JSON"):
        parsing_metrics.json_match("1", "{")
    with pytest.raises(DataError, match="no number"):
        parsing_metrics.number_match("1", "one")


def test_spans_however_they_are_written():
    lines = "PER: Nadim Ladki\n- LOC: Japan, China\nnone"
    objects = json.dumps([{"label": "PER", "text": "Nadim Ladki"}, {"type": "LOC", "span": "Japan"}])
    grouped = json.dumps({"PER": ["Nadim Ladki"], "LOC": ["Japan", "China"]})
    assert structure.read_spans(lines) == structure.read_spans(grouped)
    assert structure.read_spans(objects) == structure.read_spans(lines)[:2]
    found = case([objects, "LOC: Ladki"], [grouped, "PER: Ladki"])
    assert figure("label_f1", found) == pytest.approx(2 * 2 / (3 + 4))
    assert figure("span_f1", found) == pytest.approx(2 * 3 / (3 + 4))
    assert figure("label_f1", case(["none"], ["[]"])) == 1.0


@pytest.mark.parametrize(
    ("told", "right", "value"),
    [
        ('{"name": "Bob", "age": 7}', '{"name": "Bob", "age": 42}', 0.5),
        ('{"name": "Bob", "age": 42.0}', '{"name": "Bob", "age": 42}', 1.0),
        ('{"age": "42"}', '{"age": 42}', 1.0), ("age: 42", '{"age": 42}', 1.0),
        ("{}", '{"age": 42}', 0.0), ('{"age": 42}', "{}", 0.0), ("{}", "{}", 1.0),
        ("{}", '{"paid": null}', 0.0), ("{}", '{"paid": ""}', 0.0), ("{}", '{"mark": "?"}', 0.0),
        ('{"paid": true}', '{"paid": 1}', 0.0), ('{"paid": true}', '{"paid": false}', 0.0),
        ('{"paid": null}', '{"paid": null}', 1.0), ('{"paid": false}', '{"paid": null}', 0.0),
        ('{"price": "12.5"}', '{"price": "125"}', 0.0), ('{"price": "12.50"}', '{"price": 12.5}', 1.0),
        ('{"price": "-5"}', '{"price": "5"}', 0.0), ('{"price": "1,250"}', '{"price": 1250}', 1.0),
        ('{"price": "$12.50"}', '{"price": "$1250"}', 0.0), ("price: -5 euros", "price: 5 euros", 0.0),
        ('{"code": "0125"}', '{"code": "125"}', 0.0),
        ('{"n": 9007199254740993}', '{"n": 9007199254740992}', 0.0),
        ('[{"label": "AGE", "text": 7}]', '{"AGE": [0]}', 0.0),
        ('[{"label": "AGE", "text": 0}]', '{"AGE": [0]}', 1.0),
        ("null", "[]", 1.0), ('{"n": NaN}', '{"n": NaN}', 1.0), ('{"n": "e5"}', '{"n": "E5"}', 1.0),
        ("```\nage: 7\n```", '{"age": 7}', 1.0),
    ],
)  # fmt: skip
def test_every_kind_of_json_value_counts_in_an_extraction(told, right, value):
    assert figure("label_f1", case([told], [right])) == value


def test_brackets_count_constituents_and_not_tags():
    right = "(S (NP (DT the) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT a) (NN mat)))))"
    wrong = "(S (NP (DT the) (NN cat)) (VP (VBD sat)) (PP (IN on) (NP (DT a) (NN mat))))"
    spans = {(n.label, n.first, n.last) for n in structure.read_brackets(right) if not n.tag}
    assert spans == {("S", 0, 6), ("NP", 0, 2), ("VP", 2, 6), ("PP", 3, 6), ("NP", 4, 6)}
    assert figure("bracket_f1", case([right], [right])) == 1.0
    assert figure("bracket_f1", case([wrong], [right])) == pytest.approx(2 * 4 / 10)
    assert figure("bracket_f1", case(["((( no", ") (S x"], [right, right])) == 0.0
    # Without tags, brackets around a single word are a constituent.
    chunks = "(S (NP the cat) (VP sat))"
    assert figure("bracket_f1", case(["(S (NP the cat) sat)"], [chunks])) == pytest.approx(2 * 2 / 5)


def test_attachment_of_short_lines_and_conllu():
    conllu = (
        "1\tthe\tthe\tDET\tDT\t_\t2\tdet\t_\t_\n2\tcat\tcat\tNOUN\tNN\t_\t3\tnsubj\t_\t_\n"
        "3\tsat\tsit\tVERB\tVBD\t_\t0\troot\t_\t_"
    )
    short = "1 the 2 det\n2 cat 3 obj\n3 sat 0 root"
    assert structure.read_heads(short)[1] == structure.read_heads(conllu)[1] == (2, "det")
    assert figure("attachment_score", case([short], [conllu])) == 1.0
    assert figure("labelled_attachment_score", case([short], [conllu])) == pytest.approx(2 / 3)


def test_names_are_told_and_the_nearest_is_named():
    with pytest.raises(ConfigError, match="did you mean 'accuracy'|accuracy"):
        metrics.get("acuracy")
    assert set(metrics.suited(Task("translation", "bleu"))) >= {"bleu", "chrf"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=4))
def test_no_text_upsets_a_metric(pairs):
    texts, references = map(list, zip(*pairs, strict=True))
    for name in metrics.names():
        if metrics.get(name).reads != "answers" or name in ("accuracy_norm", "reward"):
            continue  # read more than texts
        try:
            found = figure(name, case(texts, references))
        except DataError:
            continue  # a reference that is no number, pattern or JSON
        assert 0 <= found <= 100 + 1e-9


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 234,5", 1234.5), ("1234,5", 1234.5), ("1\u202f234,5", 1234.5), ("1'234", 1234),
     ("1\u2019234.5", 1234.5),
     ("\u0663\u066b\u0665", 3.5), ("\u096b", 5), ("\u00bd", 0.5), ("3 \u00bd", 3.5), ("3 1/2", 3.5),
     ("-3 1/2", -3.5), ("1.000.000", 1e6), ("1 000 000", 1e6), ("1,23,456", 123456),
     ("\\boxed{1{,}000}", 1000), ("1.000", 1.0), ("10 300", 300), ("1/2", 0.5), ("4 8/2", 4)],
)  # fmt: skip
def test_numbers_as_they_are_written_elsewhere(text, value):
    assert parsing_metrics.number(text) == pytest.approx(value)


def test_equal_texts_are_equal_in_every_encoding_and_script():
    assert overlap.exact_match("caf\u00e9", "cafe\u0301") == 1.0
    signs = "\u2211 \u222b \u2202"
    assert overlap.words(signs) == signs.split()
