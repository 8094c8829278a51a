"""The harmonic prior: where structures start that are made from nothing but the molecular graph."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from consistent_calc.diffusion.noise import centered
from consistent_calc.errors import InvalidStructureError
from consistent_calc.structures import StructureBatch

#: Root-mean-square distance of two atoms joined by a bond that is in no ring, Angstrom (a little less in rings).
BOND_LENGTH = 1.5
#: Stiffness of the springs that tie a fragment (atoms joined by bonds) to the centre, all its atoms together, in units
#: of that of a bond. Fragments lie within some Angstrom of each other, and hardly any is compressed by it.
TETHER = 0.2


def harmonic_positions(batch: StructureBatch, normal: Tensor) -> Tensor:
    """A sample of the harmonic prior of each molecule: bonds are springs, and so is a weak tie to the centre.

    A Gaussian with the precision ``(L + T) / b^2`` along each axis, L being the Laplacian of the graph of bonds and T
    diagonal, ``TETHER`` over the number of atoms of the fragment: ``x = b C^-T z`` with ``L + T = C C^T``, moved to the
    centre (the prior of EigenFold, Jing et al. 2023, and of FlowSite, Staerk et al. 2023, with the tie added). Bonded
    atoms come out close to each other, which isotropic noise never gives.

    Args:
        batch: molecules with bonds; their positions are not used.
        normal: standard normal numbers ``[n_atoms, 3]`` on the device of the batch; a molecule's sample depends on its
            own numbers only.

    Returns:
        ``[n_atoms, 3]``, Angstrom, of mean zero in every structure, in the dtype of the positions.

    Raises:
        InvalidStructureError: no bonds are known.
    """
    if batch.bonds is None:
        raise InvalidStructureError("The harmonic prior needs the bonds; use StructureBatch.from_rdkit.")
    graph, (i, j) = batch.graph, batch.bonds[:, :2].T
    counts = batch.counts
    size = int(counts.max())
    row = torch.arange(batch.n_atoms, device=graph.device) - (counts.cumsum(0) - counts)[graph]
    degree = torch.bincount(torch.cat([i, j]), minlength=batch.n_atoms)
    # Molecules are filled up to one size with atoms of their own that nothing is bonded to.
    diagonal = torch.ones(batch.n_graphs, size, dtype=torch.float64, device=graph.device)
    diagonal[graph, row] = degree + TETHER / _fragment_sizes(batch.bonds, batch.n_atoms)
    precision = torch.diag_embed(diagonal)
    precision[graph[i], row[i], row[j]] = -1
    precision[graph[i], row[j], row[i]] = -1
    # The matrices are positive by construction; cholesky_ex spares a GPU the wait for that to be checked.
    factor = torch.linalg.cholesky_ex(precision).L
    padded = torch.zeros(batch.n_graphs, size, 3, dtype=torch.float64, device=graph.device)
    padded[graph, row] = normal.double()
    x = torch.linalg.solve_triangular(factor.mT, padded, upper=True)[graph, row]
    return (BOND_LENGTH / 3**0.5 * centered(x, graph, batch.n_graphs)).to(batch.positions.dtype)


def _fragment_sizes(bonds: Tensor, n_atoms: int) -> Tensor:
    """float64 ``[n_atoms]``: atoms of the fragment that each atom belongs to."""
    i, j = bonds[:, :2].T.cpu().numpy()
    _, fragment = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n_atoms, n_atoms)), directed=False)
    return torch.from_numpy(np.bincount(fragment)[fragment]).to(bonds.device, torch.float64)
