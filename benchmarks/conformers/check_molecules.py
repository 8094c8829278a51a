"""Checks ``drug_like.smi``: sizes, elements, electrons, stereochemistry, duplicates, categories, no training molecule.

    python benchmarks/conformers/check_molecules.py [--data datasets] [--embed]

Every problem is one line, then follows the table of molecules per category; the exit status is 1 if there is a problem.
Training molecules are looked for only in data stores that exist. ``--embed`` also lists molecules that RDKit's ETKDGv3
fails on, which is no problem: such molecules belong to the benchmark.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions
from rdkit.Chem.rdMolDescriptors import CalcNumBridgeheadAtoms, CalcNumRotatableBonds

from consistent_calc.data import Split, Store

STORES = ("organic.h5", "tiny.h5")
HEAVY_ATOMS = range(20, 51)
ELEMENTS = {"H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"}
ATTEMPTS, TIMEOUT = 3, 20

ALLENE = Chem.MolFromSmarts("C=C=C")
#: The two oxygens are equivalent by resonance.
PHOSPHATE = Chem.MolFromSmarts("P([O-])=O")
BICYCLOBUTANE = Chem.MolFromSmarts("C12CC1C2")
CUBANE = Chem.MolFromSmarts("C12C3C4C1C5C2C3C45")
TERTIARY_AMIDE = Chem.MolFromSmarts("[#6]N([#6])C=O")


def embeds(mol: Chem.Mol, attempts: int = ATTEMPTS, iterations: int = 0) -> bool:
    """Whether ETKDGv3 makes a conformer; an impossible stereoisomer is given up after so many iterations."""
    parameters = rdDistGeom.ETKDGv3()
    parameters.timeout, parameters.maxIterations = TIMEOUT, iterations
    with_hydrogens = Chem.AddHs(mol)
    for seed in range(1, attempts + 1):
        parameters.randomSeed = seed
        if rdDistGeom.EmbedMolecule(with_hydrogens, parameters) >= 0:
            return True
    return False


def has_unspecified_stereo(mol: Chem.Mol) -> bool:
    """Whether stereochemistry that distinguishes molecules is left open.

    RDKit also counts bridgeheads of cages, of whose configurations only one can exist, so potential centres are open
    only if more than one of the stereoisomers has a geometry.
    """
    unspecified = [s for s in Chem.FindPotentialStereo(mol) if s.specified != Chem.StereoSpecified.Specified]
    atoms = {s.centeredOn for s in unspecified if s.type == Chem.StereoType.Atom_Tetrahedral}
    bonds = {s.centeredOn for s in unspecified if s.type != Chem.StereoType.Atom_Tetrahedral}
    atoms -= {match[0] for match in mol.GetSubstructMatches(PHOSPHATE)}
    for first, middle, last in mol.GetSubstructMatches(ALLENE):
        bonds -= {mol.GetBondBetweenAtoms(first, middle).GetIdx(), mol.GetBondBetweenAtoms(middle, last).GetIdx()}
    if bonds:
        return True
    if not atoms:
        return False
    isomers = EnumerateStereoisomers(mol, StereoEnumerationOptions(onlyUnassigned=True, unique=True, maxIsomers=64))
    return sum(embeds(isomer, 1, 10) for isomer in isomers) > 1


def specified_centres(mol: Chem.Mol) -> list[str]:
    """Elements of the specified tetrahedral centres."""
    return [mol.GetAtomWithIdx(k).GetSymbol() for k, _ in Chem.FindMolChiralCenters(mol, useLegacyImplementation=False)]


def is_ion(mol: Chem.Mol) -> bool:
    """Whether charges are left when those of neighbours (nitro groups) cancel."""
    return any(
        atom.GetFormalCharge()
        and not any(n.GetFormalCharge() * atom.GetFormalCharge() < 0 for n in atom.GetNeighbors())
        for atom in mol.GetAtoms()
    )


def is_cage(mol: Chem.Mol) -> bool:
    """Whether there are bridgeheads, a bond shared by three rings (propellanes), a bicyclobutane or a cubane."""
    rings = mol.GetRingInfo()
    return (
        CalcNumBridgeheadAtoms(mol) > 0
        or any(rings.NumBondRings(b.GetIdx()) > 2 for b in mol.GetBonds())
        or mol.HasSubstructMatch(BICYCLOBUTANE)
        or mol.HasSubstructMatch(CUBANE)
    )


def is_hindered_biaryl(mol: Chem.Mol) -> bool:
    """Whether a bond joins two aromatic rings with at least three substituted ortho positions."""
    return any(
        sum(
            n.GetIsAromatic() and n.GetDegree() > 2 for end in ends for n in end.GetNeighbors() if n.GetIdx() not in own
        )
        > 2
        for bond in mol.GetBonds()
        if not bond.IsInRing()
        for ends in [(bond.GetBeginAtom(), bond.GetEndAtom())]
        for own in [{atom.GetIdx() for atom in ends}]
        if all(atom.GetIsAromatic() for atom in ends)
    )


CATEGORIES: dict[str, Callable[[Chem.Mol], bool]] = {
    "flexible": lambda mol: CalcNumRotatableBonds(mol) >= 5,
    "rigid": lambda mol: mol.GetRingInfo().NumRings() >= 3,
    "macrocycle": lambda mol: any(len(ring) >= 12 for ring in mol.GetRingInfo().AtomRings()),
    "stereocentres": lambda mol: len(specified_centres(mol)) >= 4,
    "double_bond": lambda mol: any(b.GetStereo() > Chem.BondStereo.STEREOANY for b in mol.GetBonds()),
    "hetero_stereo": lambda mol: bool({"S", "P"} & set(specified_centres(mol))),
    "cage": is_cage,
    "ion": is_ion,
    "amide_axial": lambda mol: (
        mol.HasSubstructMatch(TERTIARY_AMIDE) or mol.HasSubstructMatch(ALLENE) or is_hindered_biaryl(mol)
    ),
}


def problems(mol: Chem.Mol, category: str) -> Iterator[str]:
    """What is wrong with one molecule, in words."""
    if len(Chem.GetMolFrags(mol)) != 1:
        yield "more than one fragment"
    if mol.GetNumHeavyAtoms() not in HEAVY_ATOMS:
        yield f"{mol.GetNumHeavyAtoms()} heavy atoms"
    if unknown := {atom.GetSymbol() for atom in mol.GetAtoms()} - ELEMENTS:
        yield f"elements {', '.join(sorted(unknown))}"
    atoms = Chem.AddHs(mol).GetAtoms()
    if sum(a.GetAtomicNum() - a.GetFormalCharge() for a in atoms) % 2 or any(a.GetNumRadicalElectrons() for a in atoms):
        yield "an open shell"
    if has_unspecified_stereo(mol):
        yield "unspecified stereochemistry"
    if category not in CATEGORIES:
        yield f"no category {category!r}"
    elif not CATEGORIES[category](mol):
        yield f"not in the category {category}"


def constitution(mol: Chem.Mol) -> str:
    """First block of the InChIKey, which leaves stereochemistry and protonation out."""
    return Chem.MolToInchiKey(mol).partition("-")[0]


def training_molecules(folder: Path) -> dict[str, str]:
    """The SMILES seen in training, by the first block of their InChIKey."""
    out = {}
    for path in (folder / name for name in STORES):
        if not path.is_file():
            print(f"no {path}: its training molecules are not checked")
            continue
        for smiles in Store(path).read(Split.TRAIN, Split.VALIDATION).smiles:
            mol = Chem.MolFromSmiles(str(smiles))
            if mol is not None:
                out[constitution(mol)] = str(smiles)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=Path, default=Path(__file__).parent / "drug_like.smi")
    parser.add_argument("--data", type=Path, default=Path("datasets"), help="folder of the data stores")
    parser.add_argument("--embed", action="store_true", help="list the molecules that ETKDGv3 fails on")
    arguments = parser.parse_args()
    rdBase.LogToPythonLogger()  # keeps the warnings of InChI off the screen
    logging.getLogger("rdkit").setLevel(logging.CRITICAL)
    training = training_molecules(arguments.data)
    counts = dict.fromkeys(CATEGORIES, 0)
    seen: dict[str, str] = {}
    names: set[str] = set()
    n_problems = 0
    for line in arguments.molecules.read_text().splitlines():
        if line.startswith("#"):
            continue
        entry, _, category = line.partition(" # ")
        smiles, _, name = entry.partition(" ")
        mol = Chem.MolFromSmiles(smiles)
        found = ["not a SMILES"] if mol is None else list(problems(mol, category))
        if not name or " " in name or name in names:
            found.append("no name of its own")
        names.add(name)
        if mol is not None:
            key = constitution(mol)
            if key in seen:
                found.append(f"the same molecule as {seen[key]}")
            if key in training:
                found.append(f"a training molecule, {training[key]}")
            seen[key] = name
            if arguments.embed and not embeds(mol):
                print(f"ETKDGv3 fails: {name} # {category}", flush=True)
        for problem in found:
            print(f"{name}: {problem}", flush=True)
        n_problems += len(found)
        counts[category] = counts.get(category, 0) + 1
    for category, n in counts.items():
        print(f"{category:<15}{n:>5}")
    print(f"{'all':<15}{sum(counts.values()):>5}")
    sys.exit(n_problems > 0)


if __name__ == "__main__":
    main()
