"""Makes a data store of tiny molecules (1-5 heavy atoms, ions too) with AIMNet2 labels at the default level.

    pip download --no-deps auto3d==2.3.1 && python -m zipfile -e Auto3D-*.whl auto3d
    python benchmarks/data/label_tiny_molecules.py --engine auto3d/Auto3D/models/aimnet2_wb97m-d3_0.jpt \
        --qm9 datasets/qm9.h5 -o datasets/tiny.h5

The other data of the default level start at 14 atoms, so water, ammonia or formaldehyde would be extrapolations. Every
molecule is relaxed on the teacher's surface from several noised copies; structures on the way down, noised minima and
stretched or squeezed ones are kept. Labels are computed in float64.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rich.progress import track
from teacher import LEVEL, Teacher

from consistent_calc import StructureBatch, relax
from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter
from consistent_calc.elements import covalent_radii
from consistent_calc.molgraph import bond_table, stereo_satisfied, stereo_table

LISTED = """
[H][H] O N C F Cl Br I S P [OH-] [OH3+] [NH4+] [F-] [Cl-] [Br-] [SH-] FF ClCl BrBr OO NN NO ClC BrC IC FC CS CP CO
CN C=O C#N C#C C=C CC O=C=O [C-]#[O+] S=C=O S=C=S C=S CSC CSSC SS O=S=O CS(C)=O CS(C)(=O)=O CP(C)C O=P(O)(O)O CSC#N
CC#C C=C=C C1CC1 C1CO1 C1CN1 C1CS1 CC(=O)O CC(=O)[O-] [O-]C=O C[NH3+] C[O-] C[S-] CC(N)=O NC(N)=O NC=O OC=O COC CNC
CN(C)C C[N+](C)(C)C NC(N)=[NH2+] C[N+](=O)[O-] O[N+](=O)[O-] CF FC(F)F FC(F)(F)F ClCCl ClC(Cl)Cl ClC(Cl)(Cl)Cl BrCBr
BrC(Br)Br ICI FCF CCF CCCl CCBr CCI C=CF C=CCl C=CBr C=CI OCCO NCCO NCC(=O)O [NH3+]CC(=O)[O-] CC=O CC(C)=O CC#N CCO
CCN CCS CCC CCCC C=CC=C C1CCC1 OC(O)=O OC(=O)C(=O)O CC(=O)Cl CC(=O)F NS(C)(=O)=O CS(=O)(=O)O CS(=O)(=O)[O-]
COP(=O)(O)O COP(=O)([O-])O c1cc[nH]c1 c1ccoc1 c1ccsc1 c1c[nH]cn1 c1c[nH]c[nH+]1 C=CC=O CC=C C=C(C)C N=C=O CN=C=O CSN
NNC NO CONC ON=C C=NC C=NO N=N CN=NC OCC=O OO COO CCl(=O)=O OBr OCl FN
""".split()

#: Structures with atoms closer than this multiple of the sum of their covalent radii are left out: no bond is as short,
#: and the teacher has holes there, into which some relaxations fall.
CLOSEST = 0.65

KINDS = {0: "noised and half relaxed", 1: "relaxed on the surface of the labels", 2: "noised minimum", 3: "stretched"}


def conformations(teacher: Teacher, minimum: StructureBatch, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Positions ``[n, n_atoms, 3]`` and kinds ``[n]`` of all structures of one molecule."""
    generator = torch.Generator().manual_seed(seed)
    x0 = minimum.positions

    def noised(x: torch.Tensor, scale: float, n: int) -> torch.Tensor:
        chosen = x[torch.arange(n) % len(x)]
        return chosen + torch.randn(chosen.shape, generator=generator, dtype=torch.float64) * scale

    starts = noised(x0[None], 0.1, 10)
    copies = StructureBatch.concatenate([minimum.with_positions(x) for x in starts[:4]])
    relaxed = relax(teacher, copies, fmax=0.02, max_steps=40).batch.positions.view(4, -1, 3)
    scale = torch.linspace(0.9, 1.25, 8, dtype=torch.float64)[:, None, None]
    parts = [(starts, 0), (relaxed, 1), (noised(relaxed, 0.04, 8), 2), (noised(relaxed, 0.12, 8), 2)]
    parts.append((relaxed[:1] * scale, 3))
    return torch.cat([p for p, _ in parts]), np.concatenate([np.full(len(p), k) for p, k in parts])


def label(teacher: Teacher, smiles: str, seed: int) -> MoleculeRecord | str:
    """The record of one molecule, or why there is none."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return "invalid SMILES"
    mol = Chem.AddHs(mol)
    if rdDistGeom.EmbedMolecule(mol, randomSeed=1) != 0:
        return "not embedded"
    start = StructureBatch.from_rdkit(mol)
    positions, kind = conformations(teacher, start, seed)
    energy, forces, charges = teacher.label(
        positions, start.numbers.expand(len(positions), -1), start.charge.expand(len(positions))
    )
    largest = forces.norm(dim=-1).amax(-1)
    radii = torch.from_numpy(covalent_radii(start.numbers.tolist()))
    ratios = torch.cdist(positions, positions) / (radii[:, None] + radii) + 9 * torch.eye(len(radii))
    # A collapsed or exploded copy teaches nothing.
    good = torch.isfinite(energy) & (largest < 25.0) & (ratios.flatten(1).amin(1) > CLOSEST)
    stereo = stereo_table(mol)
    minimum = [
        bool(k == 1 and f < 0.1 and stereo_satisfied(p, stereo).all())
        for k, f, p in zip(kind, largest, positions, strict=True)
    ]
    rows = good.numpy()
    return MoleculeRecord(
        numbers=start.numbers.numpy(),
        positions=positions.numpy()[rows],
        smiles=smiles,
        source="tiny",
        charge=Chem.GetFormalCharge(mol),
        bonds=bond_table(mol).numpy(),
        stereo=stereo.numpy(),
        kind=kind[rows],
        equilibrium=np.array(minimum)[rows],
        energy=energy.numpy()[rows],
        forces=forces.numpy()[rows],
        partial_charges=charges.numpy()[rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--qm9", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("datasets/tiny.h5"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    qm9 = Store(arguments.qm9).read(*Split)
    small = [
        str(s) for s, n in zip(qm9.smiles, np.diff(qm9.atom_offset), strict=True) if n <= 9 and qm9.smiles is not None
    ]
    unique = dict.fromkeys(Chem.CanonSmiles(s) for s in [*LISTED, *small] if Chem.MolFromSmiles(s) is not None)
    teacher = Teacher(arguments.engine)
    provenance = f"{teacher.provenance}, benchmarks/data/label_tiny_molecules.py"
    skipped = []
    with StoreWriter(arguments.output, level=LEVEL, provenance=provenance, licence="MIT", kinds=KINDS) as writer:
        for seed, smiles in enumerate(track(unique, "Labelling")):
            record = label(teacher, smiles, seed)
            if isinstance(record, str):
                skipped.append((smiles, record))
            else:
                writer.add(record)
    print(f"{writer.n_molecules} molecules, {writer.n_conformations} structures; skipped: {skipped}")


if __name__ == "__main__":
    main()
