"""What a molecule's labels leave open of its stereochemistry, what they say in vain, and the isomers of the former."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdMolDescriptors

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Stereoisomers that are made of one molecule.
MAX_ISOMERS = 64
#: Attempts at a geometry of an isomer, and seconds for them; half of all of a cage are impossible.
ATTEMPTS, SECONDS = 10, 5
#: Two double bonds at one carbon; the outer atoms are the first and the last.
CUMULENE = Chem.MolFromSmarts("*=[#6;D2]=*")
#: Three of them in a row, and no more.
BUTATRIENE = Chem.MolFromSmarts("[*;!$(*(=*)=*)]=[#6;D2]=[#6;D2]=[*;!$(*(=*)=*)]")

TETRAHEDRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_ATROPISOMERIC = (Chem.BondStereo.STEREOATROPCW, Chem.BondStereo.STEREOATROPCCW)


def clean_labels(mol: Mol) -> None:
    """Removes labels where there is no stereochemistry, which would later look lost; the others stay."""
    cis_trans = Chem.BondStereo.STEREOCIS, Chem.BondStereo.STEREOTRANS
    if any(bond.GetStereo() in cis_trans for bond in mol.GetBonds()):
        # RDKit works the labels out from the directions of single bonds, which a caller's labels need not have. An open
        # double bond between two labelled ones must not be read from them too.
        for info in Chem.FindPotentialStereo(Chem.Mol(mol)):
            if info.type == Chem.StereoType.Bond_Double and info.specified == Chem.StereoSpecified.Unspecified:
                mol.GetBondWithIdx(info.centeredOn).SetStereo(Chem.BondStereo.STEREOANY)
        Chem.SetDoubleBondNeighborDirections(mol)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def stereoisomers(mol: Mol) -> tuple[list[Mol], tuple[str, ...]]:
    """All isomers that agree with what is specified, in a fixed order, and what the user should know of the list.

    Those of which ETKDG finds no geometry are left out: a label at one bridgehead of a cage fixes that of the other,
    which the enumeration does not know. If that is so of all, the molecule comes as it is.
    """
    from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True, maxIsomers=MAX_ISOMERS + 1, rand=0)
    made = list(EnumerateStereoisomers(mol, options))
    notes: tuple[str, ...] = (f"only {MAX_ISOMERS} stereoisomers were tried",) if len(made) > MAX_ISOMERS else ()
    made = made[:MAX_ISOMERS]
    for isomer in made:
        Chem.AssignStereochemistry(isomer, cleanIt=True, force=True)
    if len(made) == 1:
        return made, notes
    possible = [isomer for isomer in made if _has_geometry(isomer)]
    if not possible:
        return [Chem.Mol(mol)], ()
    if len(possible) < len(made):
        notes += (f"{len(made) - len(possible)} of {len(made)} stereoisomers have no geometry that ETKDG can find",)
    return possible, notes


def _has_geometry(mol: Mol) -> bool:
    """Whether ETKDG finds one soon."""
    parameters: Any = rdDistGeom.ETKDGv3()  # RDKit's stubs give its attributes a wrong type
    parameters.randomSeed, parameters.maxIterations, parameters.timeout = 0, ATTEMPTS, SECONDS
    for parameters.useRandomCoords in (False, True):
        with rdBase.BlockLogs():
            if rdDistGeom.EmbedMolecule(Chem.Mol(mol), parameters) >= 0:
                return True
    return False


def stereo_notes(text: str, mol: Mol) -> tuple[str, ...]:
    """What the user should know of the stereochemistry of a molecule.

    Args:
        text: SMILES that it was read from, or anything else.
        mol: with clean labels.
    """
    return (*_dropped(text, mol), *_unspecified(mol), *_not_kept(mol))


def _dropped(text: str, mol: Mol) -> tuple[str, ...]:
    """Tells of marks in a SMILES at atoms and bonds where RDKit sees no stereochemistry, such as in small rings."""
    smiles = text.split(maxsplit=1)[0] if text else ""
    centres = sum(a.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for a in mol.GetAtoms())
    double_bonds = sum(b.GetStereo() > Chem.BondStereo.STEREOANY for b in mol.GetBonds())
    lost = []
    marks = len(re.findall(r"@+", smiles))
    if marks > centres:
        lost.append(f"{marks - centres} of {marks} tetrahedral marks")
    if double_bonds == 0 and re.search(r"[/\\]", smiles):
        lost.append("the double-bond marks")
    return (f"{' and '.join(lost)} of the SMILES were left out: RDKit sees no stereochemistry there",) if lost else ()


def _unspecified(mol: Mol) -> tuple[str, ...]:
    found = {Chem.StereoType.Atom_Tetrahedral: set[int](), Chem.StereoType.Bond_Double: set[int]()}
    for info in Chem.FindPotentialStereo(Chem.Mol(mol)):
        if info.type in found and info.specified != Chem.StereoSpecified.Specified:
            found[info.type].add(info.centeredOn)
    centres, bonds = found.values()
    allenes = mol.GetSubstructMatches(CUMULENE)
    # Three cumulated double bonds are cis or trans together; of two RDKit speaks in vain.
    chains = [_bonds(mol, match) for match in mol.GetSubstructMatches(BUTATRIENE)]
    cumulated = {bond for match in allenes for bond in _bonds(mol, match)}
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False))
    counts = {
        "tetrahedral centre": len(centres - _symmetric_cage_atoms(mol)),
        "double bond": len(bonds - cumulated) + sum(bonds.issuperset(chain) for chain in chains),
        "chiral allene": sum(_is_axis(mol, match, ranks) for match in allenes),
    }
    missing = [f"{n} {word}{'s' if n > 1 else ''}" for word, n in counts.items() if n > 0]
    return (f"unspecified stereochemistry at {' and '.join(missing)}",) if missing else ()


def _bonds(mol: Mol, row: tuple[int, ...]) -> list[int]:
    """The bonds between atoms in a row."""
    return [mol.GetBondBetweenAtoms(i, j).GetIdx() for i, j in pairwise(row)]


def _symmetric_cage_atoms(mol: Mol) -> set[int]:
    """Atoms of a cage whose neighbors are alike but for the way through the cage, which has one shape only."""
    bridgeheads: Any = []  # filled by RDKit, whose stubs know another argument only
    rdMolDescriptors.CalcNumBridgeheadAtoms(mol, bridgeheads)
    rings = mol.GetRingInfo()
    cage = set(bridgeheads) | {i for i in range(mol.GetNumAtoms()) if rings.NumAtomRings(i) > 2}
    found = Chem.FindMolChiralCenters(Chem.Mol(mol), includeUnassigned=True, useLegacyImplementation=True)
    return cage - {i for i, _ in found}


def _is_axis(mol: Mol, allene: tuple[int, ...], ranks: list[int]) -> bool:
    """Whether both ends of two cumulated double bonds are carbons with two different neighbors each."""
    first, middle, last = (mol.GetAtomWithIdx(i) for i in allene)
    ends = [[ranks[n.GetIdx()] for n in end.GetNeighbors() if n.GetIdx() != middle.GetIdx()] for end in (first, last)]
    carbons = first.GetAtomicNum() == last.GetAtomicNum() == 6
    return carbons and all(len(end) == 2 and end[0] != end[1] for end in ends)


def _not_kept(mol: Mol) -> tuple[str, ...]:
    """Tells of stereochemistry that RDKit read and that conformers are not checked for."""
    notes = []
    if n := sum(bond.GetStereo() in _ATROPISOMERIC for bond in mol.GetBonds()):
        notes.append(f"the axial chirality of {n} bond{'s' if n > 1 else ''} is not kept")
    known = (*TETRAHEDRAL, Chem.ChiralType.CHI_UNSPECIFIED)
    if n := sum(atom.GetChiralTag() not in known for atom in mol.GetAtoms()):
        notes.append(f"the stereochemistry of {n} atom{'s' if n > 1 else ''} with five or six neighbors is not kept")
    if any(group.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE for group in mol.GetStereoGroups()):
        notes.append("relative or racemic stereochemistry is taken as absolute")
    return tuple(notes)
