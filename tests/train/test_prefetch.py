from __future__ import annotations

import threading

import pytest
import torch

from consistent_calc.train.prefetch import Prefetcher


def test_one_item_is_made_ahead_in_another_thread() -> None:
    made: list[int] = []
    ahead = threading.Event()

    def make() -> int:
        assert threading.current_thread() is not threading.main_thread()
        made.append(len(made))
        if len(made) == 2:
            ahead.set()
        return made[-1]

    items = Prefetcher(make, torch.device("cpu"))
    assert made == []
    assert items.take() == 0
    assert ahead.wait(10)
    assert [items.take(), items.take()] == [1, 2]


def test_errors_come_when_the_item_is_taken() -> None:
    outcomes = iter([1, None])

    def make() -> int:
        outcome = next(outcomes)
        if outcome is None:
            raise ValueError("broken data")
        return outcome

    items = Prefetcher(make, torch.device("cpu"))
    assert items.take() == 1
    with pytest.raises(ValueError, match="broken data"):
        items.take()
