"""AIMNet2: networks fitted to wB97M-D3/def2-TZVPP, from their published TorchScript files, in float64."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from consistent_calc.errors import ConfigurationError, LabellingError
from consistent_calc.labelling.engine import Array, Engine, Label, checked_method

#: Elements that AIMNet2 was fitted to; of others it would give numbers without meaning.
ELEMENTS = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53))

#: Where the members of an ensemble differ by more in a component of a force (standard deviation, eV/Angstrom), none of
#: them is to be trusted: one of a hundred strongly distorted structures (``benchmarks/accuracy/teacher_spread.py``).
MAX_FORCE_STD = 1.0


class AimNet2(Engine):
    """A TorchScript model that maps ``coord, numbers, charge`` to ``energy`` and ``charges``.

    One that gives ``forces`` and ``forces_std``, too, is an ensemble: its means are the labels, and a structure on
    which its members disagree has none.

    Args:
        method: wB97M-D3/def2-TZVPP.
        model_file: for example ``aimnet2_wb97m-d3_0.jpt`` or ``aimnet2_wb97m_ens_f.jpt`` of the wheel of auto3d 2.3.1.
    """

    def __init__(self, method: str, model_file: str | Path) -> None:
        self.level = checked_method(method, ("wB97M-D3/def2-TZVPP",))
        path = Path(model_file)
        try:
            content = path.read_bytes()
            self._model = torch.jit.load(str(path), map_location="cpu").double()
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(f"{path} is not a TorchScript model: {error}") from None
        digest = hashlib.sha256(content).hexdigest()[:12]
        self.provenance = f"AIMNet2 {path.name} (sha256 {digest}...), float64: a surrogate of {method}"

    def single_point(self, numbers: NDArray[Any], positions: Array, charge: int) -> Label:
        if unknown := set(numbers.tolist()) - ELEMENTS:
            raise LabellingError(f"AIMNet2 does not know the elements {sorted(unknown)}", "unsupported_element")
        x = torch.tensor(np.asarray(positions, dtype=np.float64)[None], requires_grad=True)
        # Shapes change with every molecule; the profiling executor would compile each of them.
        with torch.jit.optimized_execution(False):
            result = self._model(
                {
                    "coord": x,
                    "numbers": torch.tensor(np.asarray(numbers, dtype=np.int64)[None]),
                    "charge": torch.tensor([float(charge)], dtype=torch.float64),
                }
            )
            if "forces_std" in result:
                forces, spread = result["forces"][0].double(), float(result["forces_std"].max())
                if not spread < MAX_FORCE_STD:
                    raise LabellingError(
                        f"the networks differ by {spread:.2f} eV/Angstrom in a force", "networks_disagree"
                    )
            else:
                (gradient,) = torch.autograd.grad(result["energy"].sum(), x)
                forces = -gradient[0]
        return Label(
            positions=np.asarray(positions, dtype=np.float64),
            energy=float(result["energy"].detach()[0]),
            forces=forces.numpy(),
            charges=result["charges"].detach()[0].numpy().astype(np.float64),
        )
