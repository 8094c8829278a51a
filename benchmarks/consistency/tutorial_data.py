"""The small data of the tutorial on consistency: the smaller molecules of the experiment.

python benchmarks/consistency/tutorial_data.py        # after data.py; writes tutorials/data/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter

MAX_ATOMS = 14
N_TRAINING = 400
SOURCE, TARGET = Path("datasets/consistency"), Path("tutorials/data")


def chosen(side: Split) -> set[str]:
    """Names of the molecules of a side: the first small ones, those with an accurate minimum on the test side."""
    data = Store(SOURCE / ("pm6_train.h5" if side is Split.TRAIN else "minima_test.h5")).read(side)
    small = np.flatnonzero(np.diff(data.atom_offset) <= MAX_ATOMS)
    return set(sorted(str(data.source[m]) for m in small)[: N_TRAINING if side is Split.TRAIN else None])


def main() -> None:
    names = {side: chosen(side) for side in (Split.TRAIN, Split.TEST)}
    for store in ("pm6", "at_pm6", "minima"):
        first = Store(SOURCE / f"{store}_test.h5")
        with StoreWriter(
            TARGET / f"{store}.h5", level=first.level, provenance=first.provenance, licence=first.licence
        ) as writer:
            # Of the training side the accurate minima are not part of the tutorial.
            for side in (Split.TEST,) if store == "minima" else (Split.TRAIN, Split.TEST):
                data = Store(SOURCE / f"{store}_{side}.h5").read(side)
                order = {str(s): m for m, s in enumerate(data.source)}
                for name in sorted(names[side]):
                    writer.add(MoleculeRecord.from_dataset(data, order[name]))
        print(store, writer.n_molecules)


if __name__ == "__main__":
    main()
