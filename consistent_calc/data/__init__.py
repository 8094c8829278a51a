"""Data of training and evaluation: the split, the HDF5 store and its batches. Importers are in ``data.importers``."""

from __future__ import annotations

from consistent_calc.data.batching import BatchStream, atom_balanced_batches
from consistent_calc.data.dataset import Dataset, Labels
from consistent_calc.data.record import MoleculeRecord
from consistent_calc.data.split import Split, bucket, bucket_of_smiles, split_of_bucket
from consistent_calc.data.store import Store, StoreWriter

__all__ = [
    "BatchStream",
    "Dataset",
    "Labels",
    "MoleculeRecord",
    "Split",
    "Store",
    "StoreWriter",
    "atom_balanced_batches",
    "bucket",
    "bucket_of_smiles",
    "split_of_bucket",
]
