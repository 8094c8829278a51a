"""The small data of the tutorial on consistency: the smaller molecules of the experiment.

python benchmarks/consistency/tutorial_data.py        # after data.py; writes tutorials/data/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter

MAX_ATOMS = 14
MOLECULES = {Split.TRAIN: 400, Split.TEST: 40}
SOURCE, TARGET = Path("datasets/consistency"), Path("tutorials/data")


def main() -> None:
    for name in ("pm6", "at_pm6", "minima"):
        first = Store(SOURCE / f"{name}_test.h5")
        with StoreWriter(
            TARGET / f"{name}.h5", level=first.level, provenance=first.provenance, licence=first.licence
        ) as writer:
            for side, limit in MOLECULES.items():
                # Of the training side the accurate minima are not part of the tutorial.
                if name == "minima" and side is Split.TRAIN:
                    continue
                known = set(map(str, Store(SOURCE / f"minima_{side}.h5").read(side).source))
                data = Store(SOURCE / f"{name}_{side}.h5").read(side)
                small = np.flatnonzero(np.diff(data.atom_offset) <= MAX_ATOMS)
                chosen = [m for m in small if side is Split.TRAIN or str(data.source[m]) in known][:limit]
                for molecule in sorted(chosen, key=lambda m: str(data.source[m])):
                    writer.add(MoleculeRecord.from_dataset(data, molecule))
        print(name, writer.n_molecules)


if __name__ == "__main__":
    main()
