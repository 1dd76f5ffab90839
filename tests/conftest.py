"""What all tests share: a home of their own, and a fair share of the cores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("rung", deadline=None)
settings.load_profile("rung")

ROOT = Path(__file__).resolve().parent.parent

# Each worker computes with its share of the cores; must be set before torch is imported.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# Parts of the cache that follow from content alone and outlive the run. What depends on an address
# that another server may have tomorrow, or on how busy the machine was, is each test's own.
SHARED = ("bases", "compiled", "digests", "features", "npm", "probes", "vectors", "wheels")


def _prepare(folder: Path) -> Path:
    """A home whose cache shares what is dear with other tests and later runs."""
    cache = Path(os.environ.get("RUNG_TEST_CACHE") or ROOT / "build" / "test-cache")
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (cache / name).mkdir(parents=True, exist_ok=True)
        (folder / "cache" / name).symlink_to(cache / name, target_is_directory=True)
    return folder


# The user's own home is never touched, not even by a fixture that forgets to ask for one.
_session_home = tempfile.TemporaryDirectory(prefix="rung-tests-")
os.environ["RUNG_HOME"] = str(_prepare(Path(_session_home.name)))
os.environ.pop("RUNG_STORE", None)


@pytest.fixture
def rung_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home for this test alone; processes that the test starts see it too."""
    home = _prepare(tmp_path / "home")
    monkeypatch.setenv("RUNG_HOME", str(home))
    yield home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped where there is none, so that plain `pytest` works anywhere."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
