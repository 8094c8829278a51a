"""The molecular graph as tensors: bonds and stereo tags read from an RDKit molecule.

Stereo tags are geometric, so that they can be checked on any set of positions without a chemistry package:
a row ``(a, b, c, d, sign)`` with

* ``sign = +1 / -1``: a tetrahedral centre; the signed volume of the neighbors ``a, b, c`` seen from ``d``
  (the fourth neighbor, or the centre itself if it has only three) has this sign;
* ``sign = +2 / -2``: a double bond ``b=c``; its substituents ``a`` and ``d`` are cis (+2) or trans (-2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Columns of the bond table: (i, j, twice the bond order); an aromatic bond has 3.
BOND_COLUMNS = 3
STEREO_COLUMNS = 5


def bond_table(mol: Mol) -> Tensor:
    """Bonds of an RDKit molecule, each once.

    Returns:
        int64 ``[n_bonds, 3]``: atom, atom, twice the bond order (1.5 for aromatic bonds gives 3).
    """
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), round(2 * b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, BOND_COLUMNS)


def stereo_table(mol: Mol) -> Tensor:
    """Specified tetrahedral centres and double bonds of an RDKit molecule as geometric tags.

    Unspecified stereo gives no row. The molecule should carry explicit hydrogens.

    Returns:
        int64 ``[n_stereo, 5]``, see the module's docstring.
    """
    from rdkit import Chem

    rows: list[tuple[int, int, int, int, int]] = []
    for atom in mol.GetAtoms():
        tag = atom.GetChiralTag()
        if tag not in (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW):
            continue
        # RDKit: looking from the first neighbor (in the order of the bonds), the others turn (counter)clockwise.
        first, *rest = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        sign = 1 if tag == Chem.ChiralType.CHI_TETRAHEDRAL_CCW else -1
        if len(rest) == 3:
            rows.append((rest[0], rest[1], rest[2], first, -sign))
        elif len(rest) == 2:  # three neighbors and a lone pair, which takes the last place
            rows.append((first, rest[0], rest[1], atom.GetIdx(), sign))
    for bond in mol.GetBonds():
        stereo = bond.GetStereo()
        if stereo in (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS):
            sign = 2
        elif stereo in (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS):
            sign = -2
        else:
            continue
        a, d = bond.GetStereoAtoms()
        rows.append((a, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), d, sign))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, STEREO_COLUMNS)


def signed_volumes(positions: Tensor, quadruples: Tensor) -> Tensor:
    """Signed volume ``(r_a - r_d) . ((r_b - r_d) x (r_c - r_d))`` of atoms ``a, b, c, d``.

    Args:
        positions: ``[n_atoms, 3]`` in Angstrom.
        quadruples: int64 ``[n, 4]``.

    Returns:
        ``[n]`` in cubic Angstrom; it changes sign under reflection.
    """
    a, b, c, d = positions[quadruples].unbind(dim=-2)
    return ((a - d) * torch.linalg.cross(b - d, c - d)).sum(-1)


def cis_cosines(positions: Tensor, quadruples: Tensor, eps: float = 1e-8) -> Tensor:
    """Cosine of the dihedral angle ``a-b=c-d``: positive when the substituents ``a`` and ``d`` are cis.

    Args and shapes as in :func:`signed_volumes`; a collinear dihedral gives 0.
    """
    a, b, c, d = positions[quadruples].unbind(dim=-2)
    n1, n2 = torch.linalg.cross(a - b, c - b), torch.linalg.cross(b - c, d - c)
    return (n1 * n2).sum(-1) / (n1.norm(dim=-1) * n2.norm(dim=-1)).clamp_min(eps)


def stereo_satisfied(positions: Tensor, stereo: Tensor) -> Tensor:
    """Which stereo tags the positions fulfil.

    Args:
        positions: ``[n_atoms, 3]`` in Angstrom.
        stereo: int64 ``[n_stereo, 5]``.

    Returns:
        bool ``[n_stereo]``.
    """
    sign = stereo[:, 4]
    volumes, cosines = signed_volumes(positions, stereo[:, :4]), cis_cosines(positions, stereo[:, :4])
    return torch.where(sign.abs() == 1, volumes * sign, cosines * sign) > 0
