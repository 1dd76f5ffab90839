"""What a licence lets one do, in five classes from `rung.types.LICENCE_ORDER`.

Names are the Hub's licence identifiers ("Licenses" in its documentation) and
SPDX's, in any case. This sorts licences for a first look; it is no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from rung.types import LICENCE_ORDER, LicenceClass


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PERMISSIVE = _names(
    """
    afl apache artistic blueoak bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl cc0 cc-by cdla
    cdla-permissive ecl etalab isc mit ms-pl ncsa odc-by pddl postgresql unlicense upl wtfpl zlib
    public-domain openmdw open-mdw mit-0
    """
)
# Free to use with strings attached: what is built from it keeps the licence, or a use policy.
RESTRICTED = _names(
    """
    agpl gpl lgpl lgpl-lr mpl epl eupl osl gfdl odbl cc-by-sa cc-by-nd cdla-sharing c-uda ms-rl
    bigscience-bloom-rail bigscience-openrail-m bigcode-openrail-m creativeml-openrail-m openrail
    openrail++ deepfloyd-if llama2 llama3 llama4 llama gemma deepseek qwen tongyi-qianwen falcon-llm
    bigcode-model-license-agreement health-ai-developer-foundations ofl hippocratic lppl
    tii-falcon-llm grok2-community modified-mit lfm lfm1 stabilityai-ai-community
    """
)
NON_COMMERCIAL = _names(
    """
    fair-noncommercial-research-license intel-research apple-amlr apple-ascl
    h-research qwen-research mistral-research mrl mnpl llama1 opt
    """
)
CLOSED = frozenset({"proprietary", "closed", "api", "all-rights-reserved"})


def classify(licence: str | None) -> LicenceClass:
    """The class of a licence by its name; `unknown` when there is none or it is not known."""
    text = (licence or "").strip().lower().replace("_", "-").replace(" ", "-")
    # gpl-3.0-or-later -> gpl, cc-by-4.0 -> cc-by, llama3.1 -> llama3, cdla-permissive-2.0 -> ...
    name = re.sub(r"-(only|or-later|community|license|licence)$", "", text)
    name = re.sub(r"([-.]v?\d+)+(-[a-z]{2})?$", "", name)
    if re.search(r"(^|-)(nc|non-?commercial|research-only)(-|$)", text):
        return "non-commercial"
    for names, found in _CLASSES:
        if text in names or name in names:
            return found
    return "unknown"


_CLASSES: tuple[tuple[frozenset[str], LicenceClass], ...] = (
    (PERMISSIVE, "permissive"),
    (RESTRICTED, "restricted"),
    (NON_COMMERCIAL, "non-commercial"),
    (CLOSED, "closed"),
)


def tightest(classes: Iterable[LicenceClass]) -> LicenceClass:
    """The class of what is built from parts of these classes; of no parts, `unknown`."""
    ranks = [LICENCE_ORDER.index(c) for c in classes]
    return LICENCE_ORDER[max(ranks)] if ranks else "unknown"


def tightest_licence(names: Iterable[str]) -> str:
    """The name of the licence whose class is the tightest, the first of several; of none, `unknown`."""
    found = list(names)
    ranks = [LICENCE_ORDER.index(classify(name)) for name in found]
    return found[ranks.index(max(ranks))] if found else "unknown"


# What publishers say of training other models on what their model writes, by how the licence's name
# begins; the longest beginning counts. Read in the licences' texts in November 2026.
OUTPUT_TERMS: dict[str, tuple[Literal["forbidden", "conditions"], str]] = {
    "llama1": ("forbidden", "research only, and no use of outputs to improve other models"),
    "llama2": ("forbidden", "outputs must not improve other large language models"),
    "llama3": ("forbidden", "outputs must not improve other large language models"),
    "llama3.1": ("conditions", "a model trained on outputs must be named Llama-..."),
    "llama3.2": ("conditions", "a model trained on outputs must be named Llama-..."),
    "llama3.3": ("conditions", "a model trained on outputs must be named Llama-..."),
    "llama4": ("conditions", "a model trained on outputs must be named Llama-..."),
    "gemma": ("conditions", "a model trained on outputs to perform alike falls under Gemma's terms"),
}


def output_terms(licence: str) -> tuple[Literal["allowed", "forbidden", "conditions"], str]:
    """Whether a model's licence lets others train on what it writes, and in which words.

    An API's terms are its own (class closed): they commonly forbid it, so that this does too.
    """
    name = licence.strip().lower().replace("_", "-").replace(" ", "-")
    known = [begin for begin in OUTPUT_TERMS if name.startswith(begin)]
    if known:
        return OUTPUT_TERMS[max(known, key=len)]
    if classify(licence) == "closed":
        return "forbidden", "terms of closed models commonly forbid training on their outputs"
    return "allowed", ""
