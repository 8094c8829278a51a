"""Writes ``test_molecules.smi``: 60 QM9 molecules, 30 peptides and 10 drugs of the test buckets (95-99).

python benchmarks/conformers/select_molecules.py --qm9 datasets/qm9.h5
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path

import numpy as np
from rdkit import Chem

from consistent_calc.data.split import Split, bucket_of_smiles, split_of_bucket
from consistent_calc.data.store import Store

RESIDUES = {
    "G": "NCC(=O)",
    "A": "N[C@@H](C)C(=O)",
    "V": "N[C@@H](C(C)C)C(=O)",
    "L": "N[C@@H](CC(C)C)C(=O)",
    "I": "N[C@@H]([C@@H](C)CC)C(=O)",
    "S": "N[C@@H](CO)C(=O)",
    "T": "N[C@@H]([C@H](O)C)C(=O)",
    "C": "N[C@@H](CS)C(=O)",
    "M": "N[C@@H](CCSC)C(=O)",
    "P": "N1CCC[C@H]1C(=O)",
    "F": "N[C@@H](Cc1ccccc1)C(=O)",
    "Y": "N[C@@H](Cc1ccc(O)cc1)C(=O)",
    "N": "N[C@@H](CC(N)=O)C(=O)",
    "Q": "N[C@@H](CCC(N)=O)C(=O)",
}


def is_test(smiles: str) -> bool:
    """Whether the molecule belongs to the test side."""
    return Chem.MolFromSmiles(smiles) is not None and split_of_bucket(bucket_of_smiles(smiles)) is Split.TEST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qm9", type=Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(0)
    data = Store(arguments.qm9).read(Split.TEST)
    qm9 = rng.sample([str(s) for s in data.smiles[np.diff(data.bond_offset) > 0]], 60)
    combinations = [c for k in (2, 3) for c in itertools.product(RESIDUES, repeat=k)]
    rng.shuffle(combinations)
    peptides = (f"CC(=O){''.join(RESIDUES[r] for r in c)}NC" for c in combinations)
    chosen = list(itertools.islice((s for s in peptides if is_test(s)), 30))
    listed = (Path(__file__).parent / "drugs.smi").read_text().splitlines()[1:]
    drugs = [s for s in listed if is_test(s)][:10]
    # Where fewer than ten of the drugs are test molecules, more peptides fill up to a hundred.
    chosen += list(itertools.islice((s for s in peptides if is_test(s)), 10 - len(drugs)))
    parts = {"qm9": qm9, "peptide": chosen, "drug": drugs}
    lines = [f"{smiles} {kind}_{k}" for kind, part in parts.items() for k, smiles in enumerate(part)]
    target = Path(__file__).parent / "test_molecules.smi"
    target.write_text("# Test molecules (buckets 95-99), made by select_molecules.py\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
