"""AIMNet2 on batches of molecules of one size, on any device, and behind the interface of a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from consistent_calc.model import Prediction
from consistent_calc.structures import StructureBatch

LEVEL = "wB97M-D3/def2-TZVPP"

#: Pairs of atoms evaluated at once in float32 (half as many in float64): bounds the memory.
MAX_PAIRS = {"cpu": 100_000, "cuda": 600_000}


class Teacher:
    """The published TorchScript model. As a model, :func:`consistent_calc.relax` can relax on its surface.

    Args:
        path: ``aimnet2_wb97m-d3_0.jpt``, or ``aimnet2_wb97m_ens_f.jpt``, whose labels are the mean of four networks.
        device: "cpu" or "cuda".
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        torch._C._jit_set_profiling_executor(False)  # shapes change all the time; it would compile each of them
        self.double = torch.jit.load(str(path), map_location=device).double()
        self.single = torch.jit.load(str(path), map_location=device)
        self.device, self.dtype = torch.device(device), torch.float32
        self.provenance = f"AIMNet2 (auto3d 2.3.1, {path.name}, float64)"

    def label(self, x: Tensor, numbers: Tensor, charge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies ``[n]``, forces ``[n, n_atoms, 3]`` and charges ``[n, n_atoms]``, in the dtype of the positions.

        Args:
            x: ``[n, n_atoms, 3]``, Angstrom.
            numbers: int64 ``[n, n_atoms]``, atomic numbers.
            charge: ``[n]``, e.
        """
        model = self.double if x.dtype == torch.float64 else self.single
        pairs = MAX_PAIRS[self.device.type] // (2 if x.dtype == torch.float64 else 1)
        size = max(1, pairs // x.shape[1] ** 2)
        parts = []
        for some, z, q in zip(x.detach().split(size), numbers.split(size), charge.split(size), strict=True):
            leaf = some.requires_grad_(True)
            out = model({"coord": leaf, "numbers": z, "charge": q.to(leaf.dtype)})
            if "forces" in out:  # an ensemble works them out itself
                forces = out["forces"].detach().to(x.dtype)
            else:
                forces = -torch.autograd.grad(out["energy"].sum(), leaf)[0]
            parts.append((out["energy"].detach(), forces, out["charges"].detach()))
        energy, forces, charges = (torch.cat(column) for column in zip(*parts, strict=True))
        return energy, forces, charges

    def predict(self, batch: StructureBatch, *, level: str | None = None, forces: bool = True) -> Prediction:
        """Single precision, for structures of one size."""
        n = batch.n_graphs
        x = batch.positions.float().view(n, -1, 3)
        energy, slopes, charges = self.label(x, batch.numbers.view(n, -1), batch.charge.float())
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=self.device)
        return Prediction(energy.double(), energies, slopes.reshape(-1, 3), charges.reshape(-1), None)
