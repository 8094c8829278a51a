"""The train, validation and test split: a property of the molecule alone, the same in every data set.

A molecule's bucket (0-99) is a hash of the first block of its InChIKey, so that all stereoisomers, conformations and
levels of theory of one skeleton fall on the same side of the split.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from consistent_calc.errors import DataError

N_BUCKETS = 100

#: Characters of an InChIKey that encode the skeleton (connectivity) and not stereo, isotopes or protonation.
_FIRST_BLOCK = 14


class Split(StrEnum):
    """The three sides of the split; :attr:`buckets` says which molecules belong to each."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def buckets(self) -> range:
        """The buckets of this side: 0-89 train, 90-94 validation, 95-99 test."""
        return _BUCKETS[self]


_BUCKETS = {Split.TRAIN: range(90), Split.VALIDATION: range(90, 95), Split.TEST: range(95, N_BUCKETS)}


def bucket(inchikey: str) -> int:
    """Bucket of a molecule.

    Args:
        inchikey: a whole InChIKey or its first block (only the first 14 characters count).

    Returns:
        An integer in 0-99.
    """
    return int(hashlib.md5(inchikey[:_FIRST_BLOCK].encode()).hexdigest(), 16) % N_BUCKETS


def bucket_of_smiles(smiles: str) -> int:
    """Bucket of the molecule a SMILES denotes (imports RDKit).

    Raises:
        DataError: RDKit cannot read the SMILES or cannot make an InChIKey of it.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles) if smiles else None
        key = Chem.MolToInchiKey(mol) if mol is not None else ""
    if not key:
        raise DataError(f"RDKit makes no InChIKey of the SMILES {smiles!r}, so its side of the split is unknown.")
    return bucket(key)


def split_of_bucket(value: int) -> Split:
    """Side of the split of a bucket.

    Raises:
        DataError: the bucket is not in 0-99.
    """
    for split in Split:
        if value in split.buckets:
            return split
    raise DataError(f"A bucket is an integer in 0-{N_BUCKETS - 1}, got {value}.")
