"""StructureBatch, the one data type: any number of molecules or crystals as flat tensors.

A single structure is a batch of one. This module is the only door from ASE, RDKit and pymatgen and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from consistent_calc.errors import ChargeError, InvalidStructureError
from consistent_calc.molgraph import BOND_COLUMNS, STEREO_COLUMNS, bond_table, stereo_table
from consistent_calc.validity import check_structures

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Molecule, Structure
    from rdkit.Chem import Mol


@dataclass(frozen=True, eq=False)
class StructureBatch:
    """Structures as flat tensors, in order; immutable.

    Attributes:
        numbers: int64 ``[n_atoms]``, atomic numbers.
        positions: float ``[n_atoms, 3]``, Angstrom.
        graph: int64 ``[n_atoms]``, index of the structure of each atom, non-decreasing.
        cell: float ``[n_graphs, 3, 3]``, lattice vectors in rows, Angstrom; zero rows where not periodic.
        pbc: bool ``[n_graphs, 3]``, periodic directions.
        charge: float ``[n_graphs]``, total charge in e.
        bonds: int64 ``[n_bonds, 3]`` (i, j, twice the bond order), or None where no bonds are known.
        stereo: int64 ``[n_stereo, 5]``, see :mod:`consistent_calc.molgraph`, or None with ``bonds``.
    """

    numbers: Tensor
    positions: Tensor
    graph: Tensor
    cell: Tensor
    pbc: Tensor
    charge: Tensor
    bonds: Tensor | None = None
    stereo: Tensor | None = None

    # ------------------------------------------------------------------ construction

    @classmethod
    def from_arrays(
        cls,
        numbers: Any,
        positions: Any,
        *,
        cell: Any = None,
        pbc: Any = False,
        charge: float = 0.0,
        bonds: Any = None,
        stereo: Any = None,
        dtype: torch.dtype = torch.float64,
    ) -> StructureBatch:
        """One structure from copies of anything ``torch.as_tensor`` takes.

        Args:
            numbers: ``[n_atoms]``.
            positions: ``[n_atoms, 3]``, Angstrom.
            cell: ``[3, 3]``, or None for a molecule.
            pbc: one or three booleans.
            charge: total charge in e.
            bonds, stereo: tables as in the class; ``stereo`` defaults to an empty one where bonds are given.
            dtype: of the floating-point tensors.

        Raises:
            InvalidStructureError: positions that are not three numbers for every atomic number, atomic numbers that
                are no integers, or a cell of another shape.
        """
        z = torch.as_tensor(numbers).reshape(-1)
        if z.is_floating_point() and bool((z != z.round()).any()):
            raise InvalidStructureError("Atomic numbers are integers.")
        z, r = z.to(torch.int64, copy=True), torch.as_tensor(positions, dtype=dtype).clone()
        box = torch.zeros(3, 3, dtype=dtype) if cell is None else torch.as_tensor(cell, dtype=dtype).clone()
        if box.shape != (3, 3):
            raise InvalidStructureError(f"A cell is three vectors, [3, 3], and not {list(box.shape)}.")
        if r.numel() != 3 * len(z) or (len(z) and r.shape[-1] != 3):
            raise InvalidStructureError(f"There are {len(z)} atomic numbers but positions of shape {list(r.shape)}.")
        pbc_row = torch.as_tensor(pbc, dtype=torch.bool).expand(3).reshape(1, 3)
        if bonds is not None:
            bonds = torch.as_tensor(bonds, dtype=torch.int64).reshape(-1, BOND_COLUMNS)
            stereo = [] if stereo is None else stereo
            stereo = torch.as_tensor(stereo, dtype=torch.int64).reshape(-1, STEREO_COLUMNS)
        return cls(
            numbers=z,
            positions=r.reshape(-1, 3),
            graph=torch.zeros_like(z),
            cell=box.reshape(1, 3, 3),
            pbc=pbc_row,
            charge=torch.tensor([float(charge)], dtype=dtype),
            bonds=bonds,
            stereo=stereo,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[StructureBatch]) -> StructureBatch:
        """Joins batches in order. Bonds are kept only if every part has them."""
        if not parts:
            raise InvalidStructureError("No structures were given: a batch needs at least one.")
        n_atoms = [0, *torch.tensor([p.n_atoms for p in parts]).cumsum(0).tolist()]
        n_graphs = [0, *torch.tensor([p.n_graphs for p in parts]).cumsum(0).tolist()]
        tables: dict[str, Tensor | None] = {"bonds": None, "stereo": None}
        if all(p.bonds is not None and p.stereo is not None for p in parts):
            for name, columns in (("bonds", 2), ("stereo", 4)):
                tables[name] = torch.cat(
                    [
                        _shift_indices(getattr(p, name), columns, offset)
                        for p, offset in zip(parts, n_atoms, strict=False)
                    ]
                )
        return cls(
            numbers=torch.cat([p.numbers for p in parts]),
            positions=torch.cat([p.positions for p in parts]),
            graph=torch.cat([p.graph + offset for p, offset in zip(parts, n_graphs, strict=False)]),
            cell=torch.cat([p.cell for p in parts]),
            pbc=torch.cat([p.pbc for p in parts]),
            charge=torch.cat([p.charge for p in parts]),
            **tables,
        )

    @classmethod
    def from_ase(
        cls, atoms: Atoms | Sequence[Atoms], *, charge: float | None = None, dtype: torch.dtype = torch.float64
    ) -> StructureBatch:
        """From ASE. The total charge is ``charge``, else that of :func:`total_charge`.

        Constraints, velocities and masses are no part of a StructureBatch.
        """
        from ase import Atoms

        images = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        return cls.concatenate(
            [
                cls.from_arrays(
                    a.numbers,
                    a.positions,
                    cell=a.cell.array if a.pbc.any() else None,
                    pbc=a.pbc,
                    charge=total_charge(a) if charge is None else charge,
                    dtype=dtype,
                )
                for a in images
            ]
        )

    @classmethod
    def from_rdkit(cls, mol: Mol | Sequence[Mol], *, dtype: torch.dtype = torch.float64) -> StructureBatch:
        """From RDKit molecules: every 3D conformer of every molecule becomes a structure, with bonds and stereo tags.

        Raises:
            InvalidStructureError: no conformer, a 2D conformer, or implicit hydrogens.
        """
        from rdkit.Chem import GetFormalCharge, Mol

        parts: list[StructureBatch] = []
        for m in [mol] if isinstance(mol, Mol) else mol:
            if m.GetNumConformers() == 0:
                raise InvalidStructureError("The molecule has no conformer; embed it first or use generate_conformers.")
            if any(a.GetTotalNumHs(includeNeighbors=False) for a in m.GetAtoms()):
                raise InvalidStructureError(
                    "The molecule has implicit hydrogens; add them with Chem.AddHs(mol, addCoords=True)."
                )
            numbers = [a.GetAtomicNum() for a in m.GetAtoms()]
            bonds, stereo, charge = bond_table(m), stereo_table(m), GetFormalCharge(m)
            for conformer in m.GetConformers():
                if not conformer.Is3D():
                    raise InvalidStructureError("The molecule has 2D coordinates only; embed it in 3D first.")
                parts.append(
                    cls.from_arrays(
                        numbers, conformer.GetPositions(), charge=charge, bonds=bonds, stereo=stereo, dtype=dtype
                    )
                )
        return cls.concatenate(parts)

    @classmethod
    def from_pymatgen(
        cls, structure: Molecule | Structure | Sequence[Any], *, dtype: torch.dtype = torch.float64
    ) -> StructureBatch:
        """From pymatgen molecules (open) or structures (periodic as their lattices say), with their charge.

        Raises:
            InvalidStructureError: a site is occupied only partly or by several elements.
        """
        items: Sequence[Any] = structure if isinstance(structure, (list, tuple)) else [structure]
        parts = []
        for item in items:
            if not item.is_ordered:
                raise InvalidStructureError(
                    f"{item.composition.reduced_formula} has sites that are shared by elements or partly empty; choose "
                    "one ordered structure, e.g. with pymatgen's OrderDisorderedStructureTransformation."
                )
            lattice = getattr(item, "lattice", None)
            parts.append(
                cls.from_arrays(
                    item.atomic_numbers,
                    item.cart_coords.copy(),
                    cell=None if lattice is None else lattice.matrix.copy(),
                    pbc=False if lattice is None else list(lattice.pbc),
                    charge=item.charge,
                    dtype=dtype,
                )
            )
        return cls.concatenate(parts)

    # ------------------------------------------------------------------ shape and parts

    @property
    def n_atoms(self) -> int:
        """Number of atoms in all structures."""
        return self.numbers.shape[0]

    @property
    def n_graphs(self) -> int:
        """Number of structures."""
        return self.charge.shape[0]

    def __len__(self) -> int:
        return self.n_graphs

    @property
    def counts(self) -> Tensor:
        """int64 ``[n_graphs]``: atoms in each structure."""
        return torch.bincount(self.graph, minlength=self.n_graphs)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> StructureBatch:
        """Moves all tensors to a device; ``dtype`` concerns the floating-point ones."""
        moved = {}
        for name, value in vars(self).items():
            if value is not None:
                moved[name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return replace(self, **moved)

    def with_positions(self, positions: Tensor) -> StructureBatch:
        """The same structures at other positions ``[n_atoms, 3]``."""
        return replace(self, positions=positions)

    def select(self, indices: Iterable[int] | Tensor) -> StructureBatch:
        """The structures with these indices, in this order, or those where a boolean ``[n_graphs]`` mask is true.

        Raises:
            IndexError: an index outside the batch (negative ones included), or a mask of another length.
        """
        chosen = indices.tolist() if hasattr(indices, "tolist") else list(indices)
        chosen = [i.item() if hasattr(i, "item") else i for i in chosen]  # NumPy's and torch's own booleans
        if chosen and all(isinstance(i, bool) for i in chosen):
            if len(chosen) != self.n_graphs:
                raise IndexError(f"A mask of {len(chosen)} entries for a batch of {self.n_graphs} structures.")
            chosen = [i for i, wanted in enumerate(chosen) if wanted]
        chosen = [int(i) for i in chosen]
        if outside := [i for i in chosen if not 0 <= i < self.n_graphs]:
            raise IndexError(f"structure {outside[0]} of a batch of {self.n_graphs}")
        places = torch.tensor(chosen, dtype=torch.int64, device=self.graph.device)
        atoms, graph = _rows_of(self.graph, self.n_graphs, places)
        shift = _starts(self.counts[places]) - _starts(self.counts)[places]
        tables = {}
        for name, n_indices in (("bonds", 2), ("stereo", 4)):
            table = getattr(self, name)
            if table is None:
                continue
            rows, place = _rows_of(self.graph[table[:, 0]], self.n_graphs, places)
            tables[name] = table[rows]
            tables[name][:, :n_indices] += shift[place, None]
        return replace(
            self,
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            graph=graph,
            cell=self.cell[places],
            pbc=self.pbc[places],
            charge=self.charge[places],
            **tables,
        )

    def __getitem__(self, index: int) -> StructureBatch:
        if not -self.n_graphs <= index < self.n_graphs:
            raise IndexError(f"structure {index} of a batch of {self.n_graphs}")
        return self.select([index % self.n_graphs])

    # ------------------------------------------------------------------ back to other packages

    def to_ase(self) -> list[Atoms]:
        """ASE Atoms, one a structure, with the total charge in ``info["charge"]``."""
        from ase import Atoms

        images = []
        for z, r, cell, pbc, charge in self._per_structure():
            images.append(
                Atoms(numbers=z, positions=r, cell=cell if any(pbc) else None, pbc=pbc, info={"charge": charge})
            )
        return images

    def to_rdkit(self, mols: Mol | Sequence[Mol]) -> list[Mol]:
        """Copies of the molecules given (one for all, or one a structure), with these positions as only conformer."""
        from rdkit.Chem import Conformer, Mol

        templates = [mols] * self.n_graphs if isinstance(mols, Mol) else list(mols)
        out = []
        for template, (z, r, _, _, _) in zip(templates, self._per_structure(), strict=True):
            mol = Mol(template)
            if [a.GetAtomicNum() for a in mol.GetAtoms()] != z.tolist():
                raise InvalidStructureError(
                    "The RDKit molecule has other atoms, or another order of atoms, than the structure."
                )
            mol.RemoveAllConformers()
            conformer = Conformer(len(z))
            conformer.SetPositions(r)
            mol.AddConformer(conformer, assignId=True)
            out.append(mol)
        return out

    def to_pymatgen(self) -> list[Molecule | Structure]:
        """pymatgen Molecules (open) or Structures (periodic), one a structure."""
        from ase.geometry import complete_cell
        from pymatgen.core import Lattice, Molecule, Structure

        out: list[Molecule | Structure] = []
        for z, r, cell, pbc, charge in self._per_structure():
            if any(pbc):
                # A slab or a chain may lack the vectors of its open directions, which pymatgen needs.
                lattice = Lattice(complete_cell(cell), pbc=(pbc[0], pbc[1], pbc[2]))
                out.append(Structure(lattice, z, r, charge=charge, coords_are_cartesian=True))
            else:
                out.append(Molecule(z, r, charge=charge))
        return out

    def _per_structure(self) -> Iterable[tuple[Any, Any, Any, list[bool], int | float]]:
        """NumPy views (numbers, positions, cell, pbc, charge) of each structure."""
        sizes = self.counts.tolist()
        numbers = self.numbers.detach().cpu().split(sizes)
        positions = self.positions.detach().cpu().double().split(sizes)
        for i, (z, r) in enumerate(zip(numbers, positions, strict=True)):
            charge = float(self.charge[i])
            exact = int(charge) if charge.is_integer() else charge
            yield z.numpy(), r.numpy(), self.cell[i].detach().cpu().double().numpy(), self.pbc[i].tolist(), exact

    # ------------------------------------------------------------------ validity

    def validate(self, elements: Iterable[int] | None = None, *, warn_odd_electrons: bool = True) -> StructureBatch:
        """Checks what no later step could report clearly; returns self.

        Charges must be integers that leave electrons (:class:`ChargeError`). A charge that leaves an odd number of
        them is allowed with an :class:`OddElectronWarning`: the shipped models saw closed shells only.

        Args:
            elements: atomic numbers the model knows; None skips this check.
            warn_odd_electrons: whether to warn.

        Raises:
            InvalidStructureError: empty structure, NaN or infinite positions or cell, no lattice vector in a
                periodic direction, a singular or far too small cell, atoms without an element.
            UnsupportedElementError: an element outside ``elements``.
            ChargeError: a charge that is not a finite integer, or leaves no electrons.
        """
        check_structures(
            self.numbers, self.positions, self.graph, self.cell, self.pbc, self.charge,
            elements=elements, warn_odd_electrons=warn_odd_electrons,
        )  # fmt: skip
        return self


def total_charge(atoms: Atoms) -> float:
    """Total charge of ASE Atoms: ``info["charge"]``, else ``["total_charge"]``, else the sum of the initial charges."""
    name = "charge" if atoms.info.get("charge") is not None else "total_charge"
    charge = atoms.info.get(name)
    if charge is None:
        charge = float(atoms.get_initial_charges().sum())
        # Partial charges of any program are rounded: the more atoms there are, the further off is their sum.
        return round(charge) if abs(charge - round(charge)) < min(1e-4 + 1e-6 * len(atoms), 0.1) else charge
    try:
        return float(charge)
    except (TypeError, ValueError):
        raise ChargeError(f'atoms.info["{name}"] must be a number, got {charge!r}.') from None


def _shift_indices(table: Tensor, columns: int, offset: int) -> Tensor:
    """Adds ``offset`` to the atom indices, which stand in the first ``columns`` columns."""
    return torch.cat([table[:, :columns] + offset, table[:, columns:]], dim=1)


def _rows_of(owner: Tensor, n_owners: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the chosen owners, one owner after the other.

    Args:
        owner: int64 ``[n]``, owner of each row, in any order.
        n_owners: number of owners.
        chosen: int64 ``[m]``.

    Returns:
        int64 each: indices into ``owner``, in their order within an owner, and places in ``chosen``.
    """
    counts = torch.bincount(owner, minlength=n_owners)
    sizes = counts[chosen]
    place = torch.repeat_interleave(sizes)
    first = _starts(counts)[chosen] - _starts(sizes)
    return torch.argsort(owner, stable=True)[torch.arange(len(place), device=owner.device) + first[place]], place


def _starts(counts: Tensor) -> Tensor:
    """Where each of consecutive ranges begins."""
    return counts.cumsum(0) - counts
