"""A few hundred molecules of the shipped model's training, on which fine-tuning holds a model to what it knew."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files

from consistent_calc.structures import StructureBatch


def replay_molecules(elements: Collection[int]) -> list[StructureBatch]:
    """The molecules with one ETKDG geometry each, with bonds and stereo tags (imports RDKit).

    They cover the elements and charges of the training (``benchmarks/data/choose_replay_molecules.py``). The few that
    ETKDG cannot embed are left out.

    Args:
        elements: atomic numbers that are allowed.

    Returns:
        Batches of one structure.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem.rdDistGeom import EmbedMolecule

    found = []
    with rdBase.BlockLogs():
        for smiles in files("consistent_calc.data").joinpath("replay_molecules.smi").read_text().split():
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            known = {a.GetAtomicNum() for a in mol.GetAtoms()} <= set(elements)
            if known and EmbedMolecule(mol, maxAttempts=20, randomSeed=1) == 0:
                found.append(StructureBatch.from_rdkit(mol))
    return found
