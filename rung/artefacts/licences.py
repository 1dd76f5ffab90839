"""What a licence lets one do, in five classes from `rung.types.LICENCE_ORDER`.

Names are the Hub's licence identifiers ("Licenses" in its documentation) and
SPDX's, in any case. This sorts licences for a first look; it is no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
