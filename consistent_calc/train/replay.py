"""Replay against forgetting: a model in fine-tuning is held to what the starting model said.

The labels are those of the frozen starting model (self-distillation; Li and Hoiem, "Learning without forgetting",
2016), so that no data of its training are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from consistent_calc.data.batching import BatchStream
from consistent_calc.data.dataset import Dataset, Labels
from consistent_calc.diffusion.samplers import denoise_once
from consistent_calc.errors import InvalidStructureError
from consistent_calc.losses.structure import denoising_loss
from consistent_calc.model import ConsistentModel
from consistent_calc.structures import StructureBatch
from consistent_calc.train.batches import draw_noise
from consistent_calc.train.configuration import Noise

#: Largest standard deviation of the noise on the structures, Angstrom: that of the training data's noisy structures.
MAX_NOISE = 0.1
#: How often the default level is replayed, if there are others.
DEFAULT_SHARE = 0.5
#: How often the structure head is shown a sample of the harmonic prior, if it knows that.
PRIOR_SHARE = 0.2


class Replay:
    """Batches labelled by a frozen model: noisy structures of the fine-tuning itself, and of molecules it knew.

    Args:
        teacher: the starting model; its weights must not change.
        molecules: structures of one molecule each, with bonds; the structure head is held on them only.
        data: the fine-tuning's own structures.
        rows: ``[n]``, conformations of it that may be used; those with elements unknown to the teacher's default level
            are left out.
        atoms: atoms in a batch, half of them from either source.
        seed: of order and noise.
    """

    def __init__(
        self,
        teacher: ConsistentModel,
        molecules: Sequence[StructureBatch],
        data: Dataset,
        rows: np.ndarray,
        *,
        atoms: int,
        seed: int,
    ) -> None:
        self.teacher = teacher
        self._molecules, self._data = molecules, data
        known = set(teacher.level_elements())
        # One answer a molecule, not a conformation.
        fits = [known.issuperset(data.numbers[a:b].tolist()) for a, b in pairwise(data.atom_offset)]
        self._rows = rows[np.array(fits)[data.molecule[rows]]]
        sources = int(len(molecules) > 0) + int(len(self._rows) > 0)
        share = max(1, atoms // max(sources, 1))
        self._molecule_stream = (
            BatchStream(np.array([m.n_atoms for m in molecules]), share, seed=seed) if molecules else None
        )
        self._own_stream = BatchStream(data.n_atoms[self._rows], share, seed=seed + 1) if len(self._rows) else None
        self._generator = torch.Generator().manual_seed(seed)
        self._clean: StructureBatch | None = None
        self._noise = Noise()
        if teacher.prior_level is not None:
            high = min(Noise.high, teacher.prior_level / 2)
            self._noise = Noise(high=high, prior_share=PRIOR_SHARE, prior_level=teacher.prior_level)

    def batch(self) -> tuple[StructureBatch, Labels] | None:
        """Noisy structures with the teacher's energies, forces and charges, at one of its levels; None if there are
        no structures at all."""
        parts = []
        if self._molecule_stream is not None:
            self._clean = StructureBatch.concatenate([self._molecules[k] for k in next(self._molecule_stream)])
            parts.append(self._clean)
        if self._own_stream is not None:
            own, _ = self._data.batch(self._rows[next(self._own_stream)])
            parts.append(own.to(dtype=torch.float64))
        if not parts:
            return None
        clean = StructureBatch.concatenate(parts)
        sigma = MAX_NOISE * torch.rand(clean.n_graphs, generator=self._generator, dtype=torch.float64)
        noise = torch.randn(clean.n_atoms, 3, generator=self._generator, dtype=torch.float64)
        noisy = clean.with_positions(clean.positions + sigma[clean.graph, None] * noise)
        level, known = self._level(noisy)
        noisy = noisy.select(known)
        said = self.teacher.predict(noisy, level=level)
        assert said.forces is not None
        labels = Labels(
            level=level,
            molecule=torch.arange(noisy.n_graphs),
            energy=said.energy,
            forces=said.forces,
            partial_charges=said.charges,
        )
        return noisy, labels.to("cpu")

    def structure_loss(self, model: ConsistentModel) -> Tensor:
        """How far the structure head has moved from the teacher's, on the molecules of the last :meth:`batch`.

        Returns:
            Scalar, in the units of :func:`consistent_calc.losses.structure.denoising_loss`; zero without molecules.
        """
        if self._clean is None:
            return torch.zeros((), device=model.device, dtype=model.dtype)
        clean = self._clean.to(model.device, model.dtype)
        drawn = draw_noise(self._clean, self._noise, self._generator)
        sigma, noise = (x.to(clean.positions) for x in drawn)
        noisy = clean.with_positions(clean.positions + sigma[clean.graph, None] * noise)
        with torch.no_grad():
            target = self.teacher.denoise(noisy, sigma)
        return denoising_loss(model.denoise(noisy, sigma), target, model.preconditioning.c_out(sigma), clean.graph)

    def _level(self, structures: StructureBatch) -> tuple[str, list[int]]:
        """One of the teacher's levels, the default one most often, and the structures whose elements it knows.

        The level that is being learned is none of them: it is to become another one.
        """
        first, *others = (level for level in self.teacher.levels if level != self._data.level)
        everything = list(range(structures.n_graphs))
        if not others or float(torch.rand((), generator=self._generator)) < DEFAULT_SHARE:
            return first, everything
        level = others[int(torch.randint(len(others), (), generator=self._generator))]
        elements = torch.tensor(self.teacher.level_elements(level))
        strange = structures.graph[~torch.isin(structures.numbers, elements)].unique().tolist()
        known = sorted(set(everything) - set(strange))
        return (level, known) if known else (first, everything)


def drift(start: ConsistentModel, model: ConsistentModel, structures: StructureBatch) -> dict[str, float]:
    """How far the default level has moved between two models.

    Args:
        start, model: before and after fine-tuning.
        structures: with bonds, if the structure head is to be compared too.

    Returns:
        Mean absolute differences: forces (eV/Angstrom, components), energies (meV an atom), charges (e), and with
        bonds the distance of denoised atoms at a noise of 0.3 Angstrom (Angstrom).

    Raises:
        InvalidStructureError: no structures.
    """
    if len(structures) == 0:
        raise InvalidStructureError("There are no structures on which two models could be compared.")
    parts: dict[str, list[Tensor]] = {}
    for k in range(0, len(structures), 32):
        some = structures.select(range(k, min(k + 32, len(structures))))
        a, b = start.predict(some, level=start.levels[0]), model.predict(some, level=start.levels[0])
        assert a.forces is not None
        assert b.forces is not None
        differences = {
            "force_mae_eV_A": (a.forces - b.forces).abs().mean(1),
            "energy_mae_meV_atom": 1000 * (a.energy - b.energy).abs() / some.counts.to(a.energy.device),
            "charge_mae_e": (a.charges - b.charges).abs(),
        }
        if some.bonds is not None and len(some.bonds):
            differences["denoised_mean_distance_A"] = _denoised_distance(start, model, some, k)
        for name, value in differences.items():
            parts.setdefault(name, []).append(value)
    return {name: float(torch.cat(values).mean()) for name, values in parts.items()}


def _denoised_distance(start: ConsistentModel, model: ConsistentModel, some: StructureBatch, seed: int) -> Tensor:
    """Distances ``[n_atoms]`` in Angstrom between what two structure heads make of the same noise of 0.3 Angstrom."""
    clean = some.to(model.device, model.dtype)
    normal = torch.randn(clean.n_atoms, 3, generator=torch.Generator().manual_seed(seed)).to(clean.positions)
    noisy = clean.with_positions(clean.positions + 0.3 * normal)
    return (denoise_once(start, noisy, 0.3) - denoise_once(model, noisy, 0.3)).norm(dim=1)
