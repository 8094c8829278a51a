"""What bounds the work on one molecule."""

from __future__ import annotations

import contextlib
import time

import pytest

from consistent_calc.errors import LabellingError
from consistent_calc.labelling.molecule import _time_limit


def test_a_timeout_passes_through_the_engines_own_handlers() -> None:
    def engine() -> None:
        with contextlib.suppress(RuntimeError):
            time.sleep(10)

    with pytest.raises(LabellingError) as raised, _time_limit(0.05):
        engine()
    assert raised.value.reason == "timeout"
    time.sleep(0.06)  # no alarm is left behind
