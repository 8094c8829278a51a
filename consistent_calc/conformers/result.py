"""What conformer generation returns: an ensemble, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from rdkit import Chem
from torch import Tensor

from consistent_calc.conformers.input import Failure
from consistent_calc.structures import StructureBatch

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit.Chem import Mol


@dataclass(frozen=True, eq=False)
class ConformerEnsemble:
    """The conformers of one molecule, by rising energy.

    Attributes:
        id: unique within one job.
        name: as given, or the empty string.
        smiles: canonical SMILES of the input.
        level: level of theory of the energies.
        mol: the RDKit molecule with all conformers (ids ``0 .. n-1``); each conformer also carries its numbers as
            properties (see :meth:`properties`).
        energies: float64 ``[n]``, eV.
        relative_energies: float64 ``[n]``, kcal/mol above the lowest.
        weights: float64 ``[n]``, Boltzmann populations, their sum is one.
        moved: float64 ``[n]``, heavy-atom RMSD between the generated and the relaxed geometry, Angstrom.
        gaps: float64 ``[n]``, energy of the generated geometry above the relaxed one, kcal/mol.
        agreement: float64 ``[n]``, cosine between score and force next to the minimum, see
            :func:`consistent_calc.agreement.score_force_cosines`.
        converged: bool ``[n]``, whether the relaxation met its force threshold.
        isomers: SMILES with the stereochemistry that each conformer has in 3D; they differ where the input leaves it
            open.
        counts: samples by fate: ``requested``, ``embedded``, ``denoised``, ``screened`` (left out because others were
            lower in energy), ``kept`` and each reason for a loss.
        notes: what the user should know.
    """

    id: str
    name: str
    smiles: str
    level: str
    mol: Mol
    energies: Tensor
    relative_energies: Tensor
    weights: Tensor
    moved: Tensor
    gaps: Tensor
    agreement: Tensor
    converged: Tensor
    isomers: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for k, conformer in enumerate(self.mol.GetConformers()):
            for key, value in self.properties(k).items():
                conformer.SetProp(key, value)

    def __len__(self) -> int:
        return len(self.energies)

    def properties(self, k: int) -> dict[str, str]:
        """The SD tags of conformer ``k``."""
        return {
            "id": self.id,
            "name": self.name,
            "smiles": self.smiles,
            "smiles_3d": self.isomers[k],
            "conformer": str(k + 1),
            "n": str(len(self)),
            "level": self.level,
            "energy_eV": f"{float(self.energies[k]):.6f}",
            "relative_energy_kcal_mol": f"{float(self.relative_energies[k]):.4f}",
            "boltzmann_weight": f"{float(self.weights[k]):.6f}",
            "generated_to_relaxed_kcal_mol": f"{float(self.gaps[k]):.4f}",
            "generated_to_relaxed_rmsd_A": f"{float(self.moved[k]):.4f}",
            "score_force_cosine": f"{float(self.agreement[k]):.4f}",
            "converged": str(bool(self.converged[k])).lower(),
        }

    def to_rdkit(self) -> Mol:
        """A copy of the molecule with all conformers."""
        return Chem.Mol(self.mol)

    def to_batch(self) -> StructureBatch:
        """The conformers as one batch, with bonds and stereo tags."""
        return StructureBatch.from_rdkit(self.mol)

    def to_ase(self) -> list[Atoms]:
        """ASE Atoms with the total charge, the name and the numbers of :meth:`properties` in ``info``."""
        images = self.to_batch().to_ase()
        for k, atoms in enumerate(images):
            atoms.info.update(
                name=self.name or self.id,
                energy_eV=float(self.energies[k]),
                relative_energy_kcal_mol=float(self.relative_energies[k]),
                boltzmann_weight=float(self.weights[k]),
            )
        return images

    def to_pymatgen(self) -> list[Any]:
        """pymatgen Molecules."""
        return self.to_batch().to_pymatgen()

    def write_sdf(self, target: str | Path | TextIO) -> None:
        """Writes all conformers, with the tags of :meth:`properties`.

        Args:
            target: a path, or an open text file, which stays open so that several ensembles can follow each other.
        """
        if isinstance(target, (str, Path)):
            with Path(target).open("w", encoding="utf-8") as file:
                self.write_sdf(file)
            return
        writer = Chem.SDWriter(target)
        try:
            for k in range(len(self)):
                record = Chem.Mol(self.mol)
                for key in record.GetPropNames():
                    record.ClearProp(key)
                record.SetProp("_Name", self.name or self.id)
                for key, value in self.properties(k).items():
                    record.SetProp(key, value)
                writer.write(record, confId=k)
        finally:
            writer.close()


@dataclass(frozen=True, eq=False)
class ConformerResult:
    """The outcome for one input: exactly one of ``ensemble`` and ``failure`` is set.

    Attributes:
        id: unique within one job.
        name: as given, or the empty string.
        smiles: canonical SMILES, else the text that could not be read.
        ensemble: the conformers.
        failure: why there are none.
    """

    id: str
    name: str
    smiles: str
    ensemble: ConformerEnsemble | None = None
    failure: Failure | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there are conformers."""
        return self.ensemble is not None


def conformer_positions(mol: Mol) -> list[Tensor]:
    """Positions of every conformer, float64 ``[n_atoms, 3]``, Angstrom."""
    return [torch.from_numpy(c.GetPositions().copy()) for c in mol.GetConformers()]
