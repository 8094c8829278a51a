"""Sampling on the teacher's surface: what enters a training set, without the teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample
import torch
from contacts import APART, CONTACT, MAX_ATOMS, RADII, clusters
from torch import Tensor

from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter

WATER = np.array([[0.0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])
METHANE = np.array([[0.0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]])


def monomers(bucket: int) -> list[MoleculeRecord]:
    return [
        MoleculeRecord(numbers=np.array([8, 1, 1]), positions=WATER[None], smiles="O", bucket=bucket),
        MoleculeRecord(numbers=np.array([6, 1, 1, 1, 1]), positions=METHANE[None], smiles="C", bucket=bucket),
        MoleculeRecord(numbers=np.array([17]), positions=np.zeros((1, 1, 3)), smiles="[Cl-]", bucket=bucket, charge=-1),
        MoleculeRecord(numbers=np.array([11]), positions=np.zeros((1, 1, 3)), smiles="[Na+]", bucket=bucket, charge=1),
    ]


class Springs:
    """A teacher whose atoms are held where they are at first: zero energy there."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.rest: Tensor | None = None

    def label(self, x: Tensor, numbers: Tensor, charge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.rest = x.detach().clone() if self.rest is None else self.rest
        shift = x - self.rest.to(x)
        return 5 * (shift**2).sum((1, 2)), -10 * shift, torch.zeros_like(x[:, :, 0])


class TestContacts:
    def test_partners_are_from_one_side_and_charges_are_small(self):
        found = clusters([*monomers(3), *monomers(92)], 200, np.random.default_rng(0))
        assert len(found) == 200
        assert {r.bucket for r in found} == {3, 92}
        assert max(abs(r.charge) for r in found) == 1
        assert max(len(r.numbers) for r in found) <= MAX_ATOMS
        for r in found:
            assert r.charge == r.smiles.count("[Na+]") - r.smiles.count("[Cl-]")
            assert len(r.numbers) == r.smiles.count("[") + 3 * r.smiles.count("O") + 5 * r.smiles.replace(
                "Cl", ""
            ).count("C")

    def test_the_closest_contact_is_as_wanted(self):
        ratios = []
        for r in clusters(monomers(3), 300, np.random.default_rng(1)):
            names = r.smiles.split(".")
            if len(names) == 2:
                first = {"O": 3, "C": 5}.get(names[0], 1)
                x, radii = r.positions[0], RADII[r.numbers]
                distance = np.linalg.norm(x[:first, None] - x[None, first:], axis=-1)
                ratios.append((distance / (radii[:first, None] + radii[None, first:])).min())
        assert min(ratios) == pytest.approx(CONTACT[0], abs=0.1)
        assert max(ratios) < APART[1] + 1e-9
        assert 0.1 < np.mean(np.array(ratios) > CONTACT[1]) < 0.3


class TestSample:
    def test_langevin_dynamics_has_its_temperature(self, monkeypatch: pytest.MonkeyPatch):
        torch.manual_seed(0)
        monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 0.5))  # all at the same temperature
        kelvin = 200 * 5**0.5
        numbers = torch.full((300, 8), 8)
        group = sample.Group([], numbers, torch.zeros(300), [])
        frames = sample.dynamics(Springs(), group, torch.zeros(300, 8, 3), frames=12, every=15)
        spread = torch.stack(frames[4:]).pow(2).mean()
        # Equipartition in a harmonic well of 10 eV/A^2: <x^2> = kT / k.
        assert float(spread) == pytest.approx(8.617e-5 * kelvin / 10, rel=0.05)

    def test_changed_molecules_are_no_equilibrium(self):
        bonds, no_stereo = np.array([[0, 1, 2], [0, 2, 2]]), np.zeros((0, 5), dtype=np.int64)
        record = MoleculeRecord(
            numbers=np.array([8, 1, 1]), positions=WATER[None], bonds=bonds, stereo=no_stereo, bucket=0
        )
        assert sample.is_same_molecule(record, WATER)
        assert not sample.is_same_molecule(record, WATER * 1.5)
        bent = WATER.copy()
        bent[2] = bent[1] + [0.5, 0, 0]
        assert not sample.is_same_molecule(record, bent)

    def test_relabelled_structures_keep_all_but_their_labels(self, tmp_path: Path):
        rng = np.random.default_rng(0)
        given = [
            MoleculeRecord(
                numbers=np.array([8, 1, 1]),
                positions=WATER + 0.1 * rng.normal(size=(n, 3, 3)),
                bucket=bucket,
                kind=np.arange(n),
                charge=0,
                smiles="O",
            )
            for n, bucket in ((2, 5), (3, 91), (1, 97))
        ]
        given[0].positions[1] += 100.0 * rng.normal(size=(3, 3))  # torn apart: left out
        with StoreWriter(tmp_path / "seeds.h5", level="none", provenance="", licence="", kinds={}) as writer:
            for record in given:
                writer.add(record)
        teacher = Springs()
        teacher.rest = torch.from_numpy(WATER)
        found = list(sample.relabelled(teacher, [tmp_path / "seeds.h5"], (0, 1)))
        assert [(r.bucket, list(r.kind)) for r in found] == [(5, [0]), (91, [0, 1, 2])]  # no test molecule
        for record in found:
            shift = record.positions - WATER.astype(np.float32)
            np.testing.assert_allclose(record.forces, -10 * shift, atol=1e-5)
            np.testing.assert_allclose(record.energy, 5 * (shift**2).sum((1, 2)), rtol=1e-4)
        assert len(Store(tmp_path / "seeds.h5").read(Split.TRAIN)) == 2
