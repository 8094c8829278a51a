"""Lattices that are periodic in none, some or all of their three directions."""

from __future__ import annotations

import torch
from torch import Tensor

from consistent_calc.errors import InvalidStructureError

#: Smallest squared volume spanned by the unit vectors along the periodic lattice vectors.
_MINIMAL_SQUARED_VOLUME = 1e-8
#: Smallest distance between lattice planes, Angstrom: every atom has as many images within reach as there are planes.
_MINIMAL_HEIGHT = 0.1


def check_cells(cell: Tensor, pbc: Tensor) -> None:
    """Checks that the periodic lattice vectors are finite, linearly independent and not too short.

    Args:
        cell: float64 ``[n_graphs, 3, 3]``, Angstrom; what it holds in open directions is ignored.
        pbc: bool ``[n_graphs, 3]``.

    Raises:
        InvalidStructureError: they are not, in at least one structure.
    """
    rows = _periodic_rows(cell, pbc)
    directions = torch.nn.functional.normalize(rows, dim=2)
    gram = _gram(directions, pbc)
    # Negated, so that NaN fails too.
    bad = ~(torch.linalg.det(gram) > _MINIMAL_SQUARED_VOLUME)
    # Heights, as of :func:`reciprocal_vectors`; where vectors are dependent they are anything.
    inverse = torch.linalg.inv_ex(gram).inverse
    heights = rows.norm(dim=2) / inverse.diagonal(dim1=1, dim2=2).sqrt()
    flat = (pbc & (heights < _MINIMAL_HEIGHT)).any(dim=1)
    if not bool((bad | flat).any()):  # asked once: on a GPU it waits
        return
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise InvalidStructureError(
            f"The lattice vectors of structure {index} in its periodic directions are zero, not finite or linearly "
            f"dependent (cell {cell[index].tolist()}, pbc {pbc[index].tolist()}); correct the cell or set pbc=False."
        )
    index = int(flat.nonzero()[0])
    raise InvalidStructureError(
        f"The cell of structure {index} is less than {_MINIMAL_HEIGHT} Angstrom high in a periodic direction "
        f"({cell[index].tolist()}). Is it in other units, or in fractions of another cell?"
    )


def reciprocal_vectors(cell: Tensor, pbc: Tensor) -> Tensor:
    """Pseudo-inverse of the periodic part of each cell.

    ``positions @ reciprocal`` are fractional coordinates, zero in open directions; the norm of column k is one over
    the distance between lattice planes in direction k (the height of the cell), again zero in open directions.

    Args:
        cell: float64 ``[n_graphs, 3, 3]``, Angstrom, as :func:`check_cells` accepts them.
        pbc: bool ``[n_graphs, 3]``.

    Returns:
        float64 ``[n_graphs, 3, 3]``, 1/Angstrom; the columns belong to the lattice directions.
    """
    rows = _periodic_rows(cell, pbc)
    lengths = rows.norm(dim=2, keepdim=True)
    lengths = torch.where(lengths > 0, lengths, 1.0)
    directions = rows / lengths
    # Unit vectors first: the condition number of their Gram matrix does not suffer from cells of very unequal sides.
    return (directions.mT @ torch.linalg.inv(_gram(directions, pbc))) / lengths.mT


def translations(shifts: Tensor, cell: Tensor, graph: Tensor) -> Tensor:
    """``shifts @ cell[graph]``, differentiable through the cell.

    Args:
        shifts: int64 or float ``[n, 3]``.
        cell: float ``[n_graphs, 3, 3]``, Angstrom.
        graph: int64 ``[n]``.

    Returns:
        float ``[n, 3]``, Angstrom.
    """
    x, y, z = shifts.to(cell.dtype).split(1, dim=1)
    # One structure: broadcasting is several times faster than gathering equal cells, and so is its gradient.
    a, b, c = cell[0].unbind(0) if cell.shape[0] == 1 else cell.index_select(0, graph).unbind(1)
    # Not a matrix product: TF32 and autocast would round the cell to three digits.
    return x * a + y * b + z * c


def _periodic_rows(cell: Tensor, pbc: Tensor) -> Tensor:
    """The cell with zero rows in open directions (whatever stood there, NaN included)."""
    return torch.where(pbc.unsqueeze(2), cell, 0.0)


def _gram(rows: Tensor, pbc: Tensor) -> Tensor:
    """Scalar products of the rows, with ones on the diagonal for the (zero) rows of open directions."""
    return rows @ rows.mT + torch.diag_embed((~pbc).to(rows.dtype))
