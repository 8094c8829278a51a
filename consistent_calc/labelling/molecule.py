"""The labels of one molecule: all its structures, those that fail with a reason."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from consistent_calc.data.record import MoleculeRecord
from consistent_calc.errors import ConsistentCalcError, LabellingError
from consistent_calc.labelling.basin import check_basin
from consistent_calc.labelling.engine import Engine, Label

if TYPE_CHECKING:
    from consistent_calc.labelling.job import LabellingJob


def label_molecule(
    source: MoleculeRecord, engine: Engine, job: LabellingJob
) -> tuple[MoleculeRecord | None, list[tuple[str, str]]]:
    """All structures of a molecule with new labels, and of each that failed the reason code and the message."""
    labels: list[Label] = []
    kept: list[int] = []
    failures: list[tuple[str, str]] = []
    if (int(np.sum(source.numbers, dtype=np.int64)) - source.charge) % 2:
        return None, [("odd_electrons", "the engines label closed shells only")]
    for k, positions in enumerate(np.asarray(source.positions, dtype=np.float64)):
        try:
            with _time_limit(job.timeout):
                if job.minimize:
                    label = engine.minimum(source.numbers, positions, source.charge, job.fmax)
                    check_basin(source, label.positions)
                else:
                    label = engine.single_point(source.numbers, positions, source.charge)
            if not all(np.isfinite(x).all() for x in (label.energy, label.forces, label.positions)):
                raise LabellingError("the engine gave NaN or infinite values")
        except ConsistentCalcError as error:
            failures.append((error.reason, str(error)))
            continue
        except (ArithmeticError, RuntimeError, ValueError) as error:  # of a library, or from output without numbers
            failures.append((LabellingError.reason, f"{type(error).__name__}: {error}"))
            continue
        labels.append(label)
        kept.append(k)
    return _labelled(source, labels, kept, job.minimize) if kept else None, failures


def _labelled(source: MoleculeRecord, labels: list[Label], kept: list[int], minimized: bool) -> MoleculeRecord:
    """The molecule with its structures and labels replaced."""

    def column(name: str) -> list[object] | None:
        values = [getattr(label, name) for label in labels]
        return None if any(v is None for v in values) else values

    return replace(
        source.at(column("positions")),
        kind=np.asarray(source.kind)[kept],
        equilibrium=np.full(len(kept), True) if minimized else np.zeros(len(kept), dtype=bool),
        energy=column("energy"),
        forces=column("forces"),
        partial_charges=column("charges"),
        dipole=column("dipole"),
    )


class _Timeout(BaseException):
    """Passes through the ``except`` of any engine."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises LabellingError in the main thread of a worker after so many seconds (where the platform can)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Timeout

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Timeout:
        raise LabellingError(f"no result within {seconds:g} s", "timeout") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
