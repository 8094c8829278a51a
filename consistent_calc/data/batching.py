"""Which structures go together in a batch: batches of about equal numbers of atoms, in a resumable order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from consistent_calc.errors import DataError


def atom_balanced_batches(
    n_atoms: NDArray[np.integer], atoms_per_batch: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """One epoch of shuffled batches of about equal size.

    Args:
        n_atoms: ``[n]``, atoms of each structure.
        atoms_per_batch: upper limit of atoms in a batch; a structure larger than it makes a batch of its own.
        rng: decides the order.

    Yields:
        int64 ``[batch size]``, indices into ``n_atoms``; every index comes exactly once in the epoch.

    Raises:
        DataError: ``atoms_per_batch`` is not positive.
    """
    if atoms_per_batch < 1:
        raise DataError(f"atoms_per_batch must be positive, got {atoms_per_batch}.")
    order = rng.permutation(len(n_atoms))
    total = np.concatenate([[0], np.cumsum(np.asarray(n_atoms)[order], dtype=np.int64)])
    start = 0
    while start < len(order):
        # The last end whose running sum still fits, and at least one structure.
        end = max(start + 1, int(np.searchsorted(total, total[start] + atoms_per_batch, side="right")) - 1)
        yield order[start:end]
        start = end


class BatchStream:
    """Endless, resumable stream of atom-balanced batches, one epoch after another.

    The stream is one global sequence of batches, the same on every rank; at each step rank ``r`` takes the ``r``-th
    of the next ``world_size`` batches. The state is therefore the same on all ranks, and a run may be resumed with
    another number of ranks.

    Args:
        n_atoms: ``[n]``, atoms of each structure.
        atoms_per_batch: upper limit of atoms in a batch, see :func:`atom_balanced_batches`.
        seed: decides the order of all epochs.
        rank, world_size: which share of the batches this process takes.

    Raises:
        DataError: no structures, or a rank outside the world.
    """

    def __init__(
        self, n_atoms: NDArray[np.integer], atoms_per_batch: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(n_atoms) == 0:
            raise DataError("There are no structures to make batches of; is the side of the split empty?")
        if not 0 <= rank < world_size:
            raise DataError(f"The rank must be in 0-{world_size - 1}, got {rank}.")
        self._n_atoms = np.asarray(n_atoms)
        self._atoms_per_batch = atoms_per_batch
        self._rank, self._world_size = rank, world_size
        self._start(seed, epoch=0, position=0)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from zero."""
        return self._epoch + (self._position == len(self._batches))

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: seed, epoch, and batches already taken from the epoch by all ranks."""
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where :meth:`state_dict` was taken.

        Raises:
            DataError: the position lies outside the epoch, so the state belongs to other data.
        """
        self._start(state["seed"], state["epoch"], state["position"])

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return self

    def __next__(self) -> NDArray[np.int64]:
        batches = [self._take() for _ in range(self._world_size)]
        return batches[self._rank]

    def _start(self, seed: int, epoch: int, position: int) -> None:
        rng = np.random.default_rng((seed, epoch))
        self._batches = list(atom_balanced_batches(self._n_atoms, self._atoms_per_batch, rng))
        if not 0 <= position <= len(self._batches):
            raise DataError(f"Position {position} lies outside the epoch's {len(self._batches)} batches: other data?")
        self._seed, self._epoch, self._position = seed, epoch, position

    def _take(self) -> NDArray[np.int64]:
        if self._position == len(self._batches):
            self._start(self._seed, self._epoch + 1, 0)
        self._position += 1
        return self._batches[self._position - 1]
