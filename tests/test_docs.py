"""The docs against the code: what help says and what the pages say cannot drift apart."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import typer

from rung import methods
from rung.cli import VERBS, app
from rung.config import knobs_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PLACE = ROOT / "rung" / "methods"
METHODS = [n for n in methods.names() if (PLACE / f"{n}.py").exists() or (PLACE / n).is_dir()]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["generate"]


def anchors(path: Path) -> set[str]:
    """The headings of a page as GitHub makes links of them."""
    headings = HEADING.findall(FENCED.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def rows(text: str) -> list[list[str]]:
    """The cells of every table row."""
    return [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]


def test_generated_parts_are_up_to_date(generate, capsys):
    assert generate.main(check=True) == 0, f"run python docs/generate.py: {capsys.readouterr().err}"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_page_shows_the_flags_of_its_command(verb, generate):
    page = (ROOT / "docs" / "verbs" / f"{verb}.md").read_text()
    assert page.startswith(f"# rung {verb}\n")
    command = typer.main.get_command(app([verb])).commands[verb]
    flags = {n for p in command.params for n in [*p.opts, *p.secondary_opts] if n.startswith("-")}
    assert {n for flag in generate.flags_of(verb) for n in flag.names} == flags - {"--help"}
    table = "".join(line for line in page.splitlines(keepends=True) if line.startswith("| `-"))
    assert all(f in table for f in flags - {"--help"})


def test_no_page_is_left_of_a_verb_or_method_that_is_gone():
    assert {p.stem for p in ROOT.glob("docs/verbs/*.md")} == set(VERBS)
    assert {p.stem for p in ROOT.glob("docs/methods/*.md")} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_names_knobs_and_paper(name):
    method = methods.get(name)
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert all(f"`{k.flag}`" in page for k in knobs_of(method.Config))
    assert method.paper.removeprefix("arXiv ") in page
    for heading in ("When to take it", "What it costs", "Knobs"):
        assert f"## {heading}" in page


def test_the_readme_names_every_verb_and_method():
    readme = (ROOT / "README.md").read_text()
    assert all(f"`rung {verb}" in readme for verb in VERBS)
    assert all(f"(docs/verbs/{verb}.md)" in readme for verb in VERBS)
    assert all(f"(docs/methods/{name}.md)" in readme for name in METHODS)
    assert "make test" in readme and "make quickstart" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(page):
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_the_docs_are_verbs_with_known_flags(page, generate):
    """`rung VERB --flag` in a code block is a verb there is with flags it has."""
    known = {v: {n for f in generate.flags_of(v) for n in f.names} | {"--help"} for v in VERBS}
    faults = []
    for block in FENCED.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*rung ([a-z]+)(.*)", line)
            if not found:
                continue
            verb, rest = found[1], re.sub(r"\"[^\"]*\"|'[^']*'|\s#.*", "", found[2])
            used = {word.partition("=")[0] for word in rest.split() if re.match(r"--?[a-z]", word)}
            if verb not in VERBS:
                faults.append(f"no verb {verb}")
            else:
                faults += [f"rung {verb} {flag}" for flag in used - known[verb]]
    assert not faults


def test_the_worked_example_is_the_code():
    """Every line of the excerpts that CONTRIBUTING shows of IA3 stands in the repository."""
    places = (
        "rung/methods/ia3.py", "rung/forward/scale.py", "rung/methods/peft/ia3.py",
        "tests/methods/test_peft.py",
    )  # fmt: skip
    code = "".join((ROOT / path).read_text() for path in places)
    guide = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a method")[1]
    excerpts = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    lines = {line for excerpt in excerpts for line in excerpt.splitlines() if line}
    assert lines and not {line for line in lines if f"{line}\n" not in code}


@pytest.mark.wheel
def test_the_readmes_figures_are_those_of_the_code():
    """Trained parameters of each method on the default base."""
    import torch

    from rung import bases
    from rung.forward.bank import Bank
    from rung.methods.base import Start

    bank = Bank(bases.load(bases.resolve(bases.DEFAULT)).model)
    readme = {r[0]: r for r in rows((ROOT / "README.md").read_text())}
    for name in METHODS:
        method = methods.get(name)
        if not method.trained or method.own_base:
            continue  # its size follows from the data
        start = Start(torch.Generator().manual_seed(0), [tuple(range(30))])
        size = f"{method.build(bank, method.Config(), start).size:,}"
        assert size in readme[f"[{name}](docs/methods/{name}.md)"], name
        assert size in (ROOT / "docs" / "methods" / f"{name}.md").read_text()
