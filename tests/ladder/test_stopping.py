"""A signal stops a climb wherever it comes."""

from __future__ import annotations

import gc
import signal
import time

import pytest

from rung.ladder.stopping import stopped_by_terminate


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_finalizer_is_not_lost(kind):
    """Python prints what is raised there, and goes on: a collection of garbage calls many of them."""

    class Ends:
        def __del__(self):
            signal.raise_signal(kind)

    before = signal.getsignal(kind)
    one = Ends()
    one.itself = one  # so that garbage is collected for it
    del one
    with pytest.raises(KeyboardInterrupt), stopped_by_terminate():
        gc.collect()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            time.sleep(0.01)
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_elsewhere_stops_at_once(kind):
    with pytest.raises(KeyboardInterrupt), stopped_by_terminate():
        signal.raise_signal(kind)
        pytest.fail("it went on")
