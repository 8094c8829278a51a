"""The split: fixed by the skeleton of the molecule, and by nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from consistent_calc.data import Split, bucket, bucket_of_smiles, split_of_bucket
from consistent_calc.errors import DataError

ETHANOL_KEY = "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"


def test_bucket_is_the_hash_of_the_first_block() -> None:
    expected = int(hashlib.md5(b"LFQSCWFLJHTTHZ").hexdigest(), 16) % 100
    assert bucket(ETHANOL_KEY) == bucket(ETHANOL_KEY[:14]) == bucket_of_smiles("OCC") == expected


def test_stereoisomers_and_deuterated_molecules_share_a_bucket() -> None:
    assert bucket_of_smiles("C[C@H](O)F") == bucket_of_smiles("C[C@@H](O)F") == bucket_of_smiles("[2H]CC(O)F")


@pytest.mark.parametrize("smiles", ["", "not a molecule", "C1CC"])
def test_a_molecule_without_inchikey_has_no_bucket(smiles: str) -> None:
    with pytest.raises(DataError, match="InChIKey"):
        bucket_of_smiles(smiles)


def test_the_three_sides_cover_all_buckets_once() -> None:
    assert sorted(b for split in Split for b in split.buckets) == list(range(100))
    assert [split_of_bucket(b) for b in (0, 89, 90, 94, 95, 99)] == [
        Split.TRAIN,
        Split.TRAIN,
        Split.VALIDATION,
        Split.VALIDATION,
        Split.TEST,
        Split.TEST,
    ]
    for outside in (-1, 100):
        with pytest.raises(DataError, match="0-99"):
            split_of_bucket(outside)


def test_training_needs_no_chemistry_packages() -> None:
    code = (
        "import sys, consistent_calc.data as data\n"
        "loaded = {'ase', 'rdkit', 'pymatgen', 'pandas'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
