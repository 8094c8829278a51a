"""Atom-balanced batches: every structure once an epoch, bounded size; streams resume and shard."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistent_calc.data import BatchStream, atom_balanced_batches
from consistent_calc.errors import DataError

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=200)


@given(sizes=SIZES, limit=st.integers(1, 300), seed=st.integers(0, 99))
@settings(deadline=None)
def test_every_index_once_and_no_batch_too_large(sizes: list[int], limit: int, seed: int) -> None:
    n_atoms = np.array(sizes)
    batches = list(atom_balanced_batches(n_atoms, limit, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    totals = [int(n_atoms[b].sum()) for b in batches]
    assert all(t <= limit or len(b) == 1 for t, b in zip(totals, batches, strict=True))
    # No batch but the last could have taken the first structure of the next one as well.
    for total, following in zip(totals, batches[1:], strict=False):
        assert total + n_atoms[following[0]] > limit


def test_the_order_depends_on_the_generator_only() -> None:
    n_atoms = np.full(50, 7)
    one, same, other = (
        np.concatenate(list(atom_balanced_batches(n_atoms, 30, np.random.default_rng(s)))) for s in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@given(sizes=SIZES, taken=st.integers(0, 100), world_size=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_a_resumed_stream_goes_on_as_if_never_stopped(sizes: list[int], taken: int, world_size: int) -> None:
    def stream(seed: int) -> BatchStream:
        return BatchStream(np.array(sizes), 100, seed=seed, rank=world_size - 1, world_size=world_size)

    original, resumed = stream(seed=5), stream(seed=0)
    for _ in range(taken):
        next(original)
    resumed.load_state_dict(original.state_dict())
    assert resumed.epoch == original.epoch
    for a, b in itertools.islice(zip(original, resumed, strict=True), 20):
        assert np.array_equal(a, b)


@given(sizes=SIZES, world_size=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_shards_are_disjoint_and_complete(sizes: list[int], world_size: int) -> None:
    n_atoms = np.array(sizes)
    whole = BatchStream(n_atoms, 100, seed=3)
    ranks = [BatchStream(n_atoms, 100, seed=3, rank=r, world_size=world_size) for r in range(world_size)]
    for _ in range(10):
        for rank in ranks:
            assert np.array_equal(next(rank), next(whole))
    assert len({tuple(sorted(r.state_dict().items())) for r in ranks}) == 1


def test_epochs_follow_each_other_in_different_orders() -> None:
    stream = BatchStream(np.full(40, 10), 100)
    epochs = [np.concatenate([next(stream) for _ in range(4)]) for _ in range(2)]
    assert [sorted(e.tolist()) for e in epochs] == [list(range(40))] * 2
    assert not np.array_equal(*epochs)
    assert stream.epoch == 2


def test_impossible_requests_are_errors() -> None:
    with pytest.raises(DataError, match="no structures"):
        BatchStream(np.array([], dtype=int), 100)
    with pytest.raises(DataError, match="positive"):
        BatchStream(np.array([3]), 0)
    with pytest.raises(DataError, match="rank"):
        BatchStream(np.array([3]), 10, rank=2, world_size=2)
    with pytest.raises(DataError, match="other data"):
        BatchStream(np.array([3]), 10).load_state_dict({"seed": 0, "epoch": 0, "position": 7})
