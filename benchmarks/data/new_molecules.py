"""Makes seed structures of new molecules, to be labelled: recombined training fragments, variations, ions and more.

    python benchmarks/data/new_molecules.py --data datasets -o datasets/new_molecules.h5 --minutes 30
    python benchmarks/data/new_molecules.py --report -o datasets/new_molecules.h5

Made only from molecules of the training side of ``organic.h5``. Molecules of the test side, of ``organic.h5``,
``qm9.h5`` and of the benchmarks are left out, whatever their stereochemistry and protonation. Candidate ``i`` depends
on ``i`` alone; the store is written every few minutes and at the end, and a run with an existing store goes on after
its last molecule (the number in ``source``). Positions are multiples of 1/1024 Angstrom, which float32 holds exactly,
so that the file compresses.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from molecule_recipes import RecipeError, recipes
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.rdMolDescriptors import CalcNumRotatableBonds
from rich.console import Console
from rich.table import Table

from consistent_calc.data import MoleculeRecord, Split, Store, StoreWriter, bucket, bucket_of_smiles, split_of_bucket
from consistent_calc.data.importers.graph import fits_geometry, molecule_of_smiles, numbers_of
from consistent_calc.molgraph import bond_table, stereo_satisfied, stereo_table

KINDS = {0: "raw ETKDG", 1: "ETKDG, then at most 200 steps of MMFF94s"}
ELEMENTS = {"H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"}
HEAVY_ATOMS = range(8, 31)
#: Recipes whose molecules may be larger.
LARGE = ("peptide", "chain", "macrocycle", "sugar")
MAX_ATOMS = 80
MAX_CHARGE = 2

#: Molecules with at least so many rotatable bonds get two conformers.
FLEXIBLE = 7
TIMEOUT, MAX_ITERATIONS = 3, 30

#: Positions per Angstrom.
GRID = 1024

SAVE_SECONDS = 180
#: Size of the file, foreseen from the molecules so far.
MAX_BYTES = 8_800_000
BENCHMARKS = Path(__file__).parents[1] / "conformers"


class Rejected(Exception):  # noqa: N818
    """A candidate that is not kept; the message is the reason that is counted."""


def skeleton(mol: Chem.Mol) -> str:
    """First block of the InChIKey, which leaves stereochemistry and protonation out."""
    return Chem.MolToInchiKey(mol).partition("-")[0]


def skeletons(mol: Chem.Mol) -> set[str]:
    """Skeletons of a molecule and of its uncharged form; InChI keeps the two apart for sulfonamides and imides."""
    return {skeleton(mol), skeleton(rdMolStandardize.Uncharger().uncharge(mol))}


def known_skeletons(data: Path) -> set[str]:
    """Skeletons of all molecules of the data stores and of the benchmarks (InChI takes two minutes for QM9)."""
    smiles = [str(s) for name in ("organic.h5", "qm9.h5", "tiny.h5") for s in Store(data / name).read(*Split).smiles]
    for path in BENCHMARKS.glob("*.smi"):
        smiles += [line.split()[0] for line in path.read_text().splitlines() if line and not line.startswith("#")]
    molecules = (Chem.MolFromSmiles(s) for s in smiles)
    return {skeleton(mol) for mol in molecules if mol is not None}


def checked(mol: Chem.Mol, recipe: str) -> Chem.Mol:
    """The molecule read again from its SMILES.

    Raises:
        Rejected: not a molecule to keep.
    """
    mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
    if mol is None:
        raise Rejected("not a molecule")
    if len(Chem.GetMolFrags(mol)) > 1 or any(a.GetNumRadicalElectrons() or a.GetIsotope() for a in mol.GetAtoms()):
        raise Rejected("fragments, radicals or isotopes")
    if not {a.GetSymbol() for a in mol.GetAtoms()} <= ELEMENTS:
        raise Rejected("element")
    n_heavy, n_atoms = mol.GetNumHeavyAtoms(), Chem.AddHs(mol).GetNumAtoms()
    if n_atoms > MAX_ATOMS or n_heavy < HEAVY_ATOMS.start or (n_heavy >= HEAVY_ATOMS.stop and recipe not in LARGE):
        raise Rejected("size")
    if abs(Chem.GetFormalCharge(mol)) > MAX_CHARGE:
        raise Rejected("charge")
    keys = skeletons(mol)
    if "" in keys:
        raise Rejected("no InChIKey")
    if any(split_of_bucket(bucket(key)) is Split.TEST for key in keys):
        raise Rejected("test side")
    return mol


def embedded(mol: Chem.Mol, seed: int, optimise: bool) -> tuple[Chem.Mol, int]:
    """The molecule with hydrogens, a conformer or two, and the stereochemistry of the first; and the kind of these.

    Raises:
        Rejected: no conformer in time.
    """
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed, parameters.timeout, parameters.maxIterations = seed, TIMEOUT, MAX_ITERATIONS
    out = Chem.AddHs(mol)
    if rdDistGeom.EmbedMolecule(out, parameters) < 0:
        raise Rejected("not embedded")
    # The second conformer is of the same stereoisomer, even where the graph leaves it open.
    Chem.AssignStereochemistryFrom3D(out)
    if CalcNumRotatableBonds(mol) >= FLEXIBLE:
        parameters.randomSeed, parameters.clearConfs = seed + 1, False
        rdDistGeom.EmbedMolecule(out, parameters)
    if not optimise or not rdForceFieldHelpers.MMFFHasAllMoleculeParams(out):
        return out, 0
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(out, numThreads=1, maxIters=200, mmffVariant="MMFF94s")
    return out, 1


def in_smiles_order(mol: Chem.Mol) -> tuple[str, list[int]]:
    """SMILES with the molecule's stereochemistry, and its atoms in the order in which the SMILES is read.

    Args:
        mol: with explicit hydrogens. Heavy atoms come as in the SMILES, then hydrogens, sorted by their heavy atom.
    """
    for atom in mol.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    heavy = Chem.RemoveHs(mol)
    smiles = Chem.MolToSmiles(heavy)
    written = list(heavy.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])
    order = [heavy.GetAtomWithIdx(i).GetIntProp("place") for i in written]
    neighbors = [n.GetIdx() for i in order for n in mol.GetAtomWithIdx(i).GetNeighbors()]
    return smiles, order + [i for i in neighbors if i not in set(order)]


def record_of(mol: Chem.Mol, kind: int, source: str) -> MoleculeRecord:
    """The record of an embedded molecule, its graph as :mod:`consistent_calc.molgraph` reads it from the SMILES.

    Raises:
        Rejected: the SMILES does not give this molecule, or no conformer has its bonds and stereochemistry.
    """
    smiles, order = in_smiles_order(mol)
    target = molecule_of_smiles(smiles)
    if not np.array_equal(numbers_of(target), numbers_of(mol)[order]):
        raise Rejected("not the molecule of its SMILES")
    stereo = stereo_table(target)
    positions = [np.round(c.GetPositions()[order] * GRID) / GRID for c in mol.GetConformers()]
    positions = [x for x in positions if fits_geometry(target, x)]
    if not positions:
        raise Rejected("bonds do not fit the geometry")
    positions = [x for x in positions if stereo_satisfied(torch.from_numpy(x), stereo).all()]
    if not positions:
        raise Rejected("stereochemistry does not fit the geometry")
    return MoleculeRecord(
        numbers=numbers_of(target),
        positions=positions,
        smiles=smiles,
        bucket=bucket_of_smiles(smiles),
        source=source,
        charge=Chem.GetFormalCharge(target),
        bonds=bond_table(target).numpy(),
        stereo=stereo.numpy(),
        kind=kind,
        equilibrium=False,
    )


class Candidates:
    """Candidates by number; remembers which molecules it has given.

    Args:
        data: folder of the data stores.
        records: molecules of an interrupted run.
    """

    def __init__(self, data: Path, records: list[MoleculeRecord]) -> None:
        training = Store(data / "organic.h5").read(Split.TRAIN)
        self.recipes = recipes([str(s) for s in training.smiles])
        self.shares = [share for share, _ in self.recipes.values()]
        self.known = known_skeletons(data)
        self.seen = {(skeleton(Chem.MolFromSmiles(r.smiles)), r.charge) for r in records}

    def record(self, number: int) -> MoleculeRecord:
        """The record of one candidate.

        Raises:
            Rejected: it gives no molecule, one of the test side, or one that is known.
        """
        rng = random.Random(number)
        recipe = rng.choices(list(self.recipes), self.shares)[0]
        try:
            drawn = self.recipes[recipe][1](rng)
        except RecipeError as error:
            raise Rejected("recipe") from error
        mol = checked(drawn, recipe)
        if skeletons(mol) & self.known:
            raise Rejected("known")
        identity = (skeleton(mol), Chem.GetFormalCharge(mol))
        if identity in self.seen:
            raise Rejected("made before")
        self.seen.add(identity)
        return record_of(*embedded(mol, number, optimise=number % 2 == 1), f"{recipe}:{number}")


def save(path: Path, records: list[MoleculeRecord]) -> None:
    """Writes the store anew; the old one stays until the new one is complete."""
    provenance = "RDKit ETKDGv3 and MMFF94s, no labels; benchmarks/data/new_molecules.py"
    with StoreWriter(path, level="none", provenance=provenance, licence="MIT", kinds=KINDS) as writer:
        for record in records:
            writer.add(record)


def make(data: Path, out: Path, minutes: float, n_molecules: int) -> None:
    """Makes molecules until there are enough, the time is over, the file is full or Ctrl-C is pressed."""
    stop = time.monotonic() + 60 * minutes
    records: list[MoleculeRecord] = []
    if out.is_file():
        stored = Store(out).read(Split.TRAIN, Split.VALIDATION)
        records = [MoleculeRecord.from_dataset(stored, i) for i in range(stored.n_molecules)]
    candidates = Candidates(data, records)
    number = max((int(r.source.partition(":")[2]) for r in records), default=-1)
    rejected: Counter[str] = Counter()
    saved, full = time.monotonic(), n_molecules
    try:
        while len(records) < full and time.monotonic() < stop:
            number += 1
            try:
                records.append(candidates.record(number))
            except Rejected as error:
                rejected[str(error)] += 1
            if time.monotonic() > saved + SAVE_SECONDS:
                save(out, records)
                saved, size = time.monotonic(), out.stat().st_size
                full = min(n_molecules, len(records) * MAX_BYTES // size)
                print(f"{len(records)} molecules of {number + 1} candidates, {size} bytes", flush=True)
    except KeyboardInterrupt:
        print("interrupted; what there is is kept")
    save(out, records)
    print(f"{len(records)} molecules of {number + 1} candidates; rejected: {dict(rejected.most_common())}")


def report(path: Path) -> None:
    """Prints what is in the store: recipes, kinds, charges, elements, sizes, sides of the split."""
    store = Store(path)
    stored = store.read(*Split)
    atoms = [stored.numbers[a:b] for a, b in zip(stored.atom_offset[:-1], stored.atom_offset[1:], strict=True)]
    periodic = Chem.GetPeriodicTable()
    counts = {
        "recipe": Counter(str(source).partition(":")[0] for source in stored.source),
        "structures of kind": Counter(KINDS[int(kind)] for kind in stored.kind),
        "charge": Counter(map(int, stored.charge)),
        "molecules with": Counter(periodic.GetElementSymbol(int(z)) for numbers in atoms for z in np.unique(numbers)),
        "atoms, from": Counter(len(numbers) // 10 * 10 for numbers in atoms),
        "heavy atoms, from": Counter(int((numbers > 1).sum()) // 5 * 5 for numbers in atoms),
        "side": {str(split): store.count(split)[0] for split in Split},
    }
    table = Table("what", "value", "number")
    for what, counter in counts.items():
        for value, n in sorted(counter.items(), key=lambda item: item[0]):
            table.add_row(what, str(value), str(n))
    Console().print(table)
    n_stereo = int((np.diff(stored.stereo_offset) > 0).sum())
    print(
        f"{stored.n_molecules} molecules ({n_stereo} with stereo tags), {len(stored)} structures, "
        f"{len(stored.positions)} atoms, {path.stat().st_size} bytes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets"), help="folder of the data stores")
    parser.add_argument("-o", "--output", type=Path, default=Path("datasets/new_molecules.h5"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("-n", "--molecules", type=int, default=20000)
    parser.add_argument("--report", action="store_true", help="only tell what is in the store")
    arguments = parser.parse_args()
    if not arguments.report:
        with rdBase.BlockLogs():
            make(arguments.data, arguments.output, arguments.minutes, arguments.molecules)
    report(arguments.output)


if __name__ == "__main__":
    main()
