"""Recipes for new molecules: recombined fragments, variations, ions, and classes that the training data have few of.

Every recipe draws from a ``random.Random`` and gives an RDKit molecule, or raises :class:`RecipeError` where the draw
makes no sense. Only peptides come with stereochemistry; for the others it is left to whoever makes the geometry.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from rdkit import Chem
from rdkit.Chem import BRICS

# Bonds that BRICS may make between two environments: only single ones, so that open ends can be capped with hydrogen.
_PARTNERS: dict[int, list[int]] = defaultdict(list)
for _group in BRICS.reactionDefs:
    for _first, _second, _bond in _group:
        if _bond == "-":
            _PARTNERS[int(_first)].append(int(_second))
            _PARTNERS[int(_second)].append(int(_first))

#: Environment of a sulfonyl group.
_SULFONYL = 12
#: Added to the environment of an open end that takes no fragment.
_CLOSED = 100

SUBSTITUENTS = "*F *Cl *Br *I *C *O *N *S *C#N *OC *C(F)(F)F *SC *C=O *C(=O)O".split()
_SUBSTITUENT_WEIGHTS = (4, 4, 2, 2, 4, 3, 3, 3, 3, 1, 1, 1, 1, 1)

#: Groups with phosphorus and sulfur, and halogens; a second star takes another fragment.
GROUPS = """
*OP(=O)(O)O *OP(=O)(O)O* *OP(=O)(OC)OC *P(=O)(O)O *P(=O)(OC)OC *P(C)(C)=O *P(*)C *OP(=O)(N)O* *SP(=S)(OC)OC
*NP(=O)(O)O *S(=O)(=O)N* *S(=O)(=O)N(C)C *S(=O)(=O)NC(=O)* *NS(=O)(=O)C *S(C)=O *S(*)=O *S(C)(=O)=O *S(*)(=O)=O
*S(=O)(=O)O *SS* *SS* *SC#N *N=C=S *C(=S)N* *OS(C)(=O)=O *S(=O)(=O)F *S(=O)(=O)Cl *SC(F)(F)F *S(N)(=O)=NC *SC*
*C(=O)S* *C(F)(F)* *I *Br *SP(*)C
""".split()

CHAIN_UNITS = """
C C CC CC CCC OCC OCC SCC NCC C=C C#C C(=O)N C(=O)O C(F)(F) C(C) C(C)(C) C(O) C(=O) CS(=O)C CC(Cl) N(C)CC c1ccc(cc1) SSC
""".split()
CHAIN_ENDS = "C O N F Cl Br I S C(=O)O C(=O)N C#N OP(=O)(O)O S(=O)(=O)O [N+](C)(C)C C(=O)[O-] OC".split()
#: Repeated, homologous series: alkanes, PEG, nylon, polyalanine, perfluoroalkanes, polyenes, polyynes and others.
SERIES = "C CC OCC NC(=O)CCCCC NC(=O)C(C) C(F)(F) C=C C#C SCC N(C)CC CC(O) CC(Cl)".split()

RING_UNITS = """
C CC CCC CCCC OCC OCC SCC NCC N(C)CC C(=O)NCC C(=O)OCC c2ccc(cc2) c2cccc(c2) c2cccc(n2) C=CC C#CC S(=O)(=O)NC C(=O)NC(C)
C(=O)NC(Cc2ccccc2) C(=O)NC C(=O)N(C)C SSC OP(=O)(O)OC c2cccs2
""".split()

SUGARS = """
OCC1OC(*)C(O)C(O)C1O CC1OC(*)C(O)C(O)C1O C1OC(*)C(O)C(O)C1O OCC1OC(*)C(O)C1O OCC1OC(*)CC1O O=C(O)C1OC(*)C(O)C(O)C1O
OCC1OC(*)C(NC(C)=O)C(O)C1O OCC1(O)OC(*)C(O)C1O OCC1(O)OCC(*)C(O)C1O
""".split()
AGLYCONS = """
*O *OC *OCC *Oc1ccccc1 *SC *OC(C)C *N *F *n1ccc(=O)[nH]c1=O *n1ccc(N)nc1=O *n1cnc2c(N)ncnc21 *n1cnc2c(=O)[nH]c(N)nc21
*n1cc(C)c(=O)[nH]c1=O *O{} *O{} *O{} *OC{}
""".split()
#: What the hydrogen of a hydroxyl group may become.
HYDROXYL_CAPS = "*C *C(C)=O *P(=O)(O)O *S(=O)(=O)O *P(=O)(O)OP(=O)(O)O *Cc1ccccc1".split()

#: Sites that take a proton: amines but not amides or enamines, imines, amidines, pyridines.
BASIC = Chem.MolFromSmarts(
    "[$([NX3;+0;!$(N-[C,S,P]=[O,S,N]);!$(N-[a,!#6;!#1]);!$(N-C=[C,N]);!$(N-C#N)]),$([NX2;+0]=[CX3]-[NX3]),"
    "$([nX2;+0;r6]),$([nX2;+0;r5]1:[c]:[n;H1,X3]:[c]:[c]1)]"
)
#: Sites that lose one: acids of C, S and P, phenols, thiols, sulfonamides, tetrazoles and other acidic NH.
ACIDIC = Chem.MolFromSmarts(
    "[$([OX2;H1]-[C,S,P]=[O,S]),$([OX2;H1]-c),$([SX2;H1]),$([NX3;H1,H2;+0]-S(=O)=O),$([nX3;H1;+0]:n:n),"
    "$([NX3;H1](C=O)C=O)]"
)


class RecipeError(ValueError):
    """This draw gives no molecule."""


class Fragments:
    """BRICS fragments of molecules, by the environment (isotope of the dummy atom) of their open ends.

    Args:
        molecules: SMILES.
        largest: heavy atoms of the largest fragment kept.
    """

    def __init__(self, molecules: Sequence[str], largest: int = 16) -> None:
        unique: dict[str, Chem.Mol] = {}
        for smiles in molecules:
            mol = _without_stereo(Chem.MolFromSmiles(smiles))
            for piece in Chem.GetMolFrags(BRICS.BreakBRICSBonds(mol), asMols=True):
                if _open_ends(piece) and piece.GetNumHeavyAtoms() <= largest:
                    unique.setdefault(Chem.MolToSmiles(piece), piece)
        self.all = [piece for piece in unique.values() if not any(_is_double(end) for end in _open_ends(piece))]
        self.of_environment: dict[int, list[Chem.Mol]] = defaultdict(list)
        for piece in self.all:
            for environment in {end.GetIsotope() for end in _open_ends(piece)}:
                self.of_environment[environment].append(piece)

    def molecule(self, rng: random.Random) -> Chem.Mol:
        """Two or three fragments joined by the rules of BRICS, the other open ends capped with hydrogen."""
        mol = rng.choice(self.all)
        for _ in range(rng.choice((1, 1, 2))):
            ends = _open_ends(mol)
            if not ends:
                break
            end = rng.choice(ends)
            partners = [e for e in _PARTNERS[end.GetIsotope()] if self.of_environment[e]]
            if not partners:
                raise RecipeError("no fragment fits")
            environment = rng.choice(partners)
            piece = rng.choice(self.of_environment[environment])
            other = rng.choice([e for e in _open_ends(piece) if e.GetIsotope() == environment])
            mol = _join(mol, end.GetIdx(), piece, other.GetIdx())
        return _capped(mol)

    def substituted(self, rng: random.Random) -> Chem.Mol:
        """Fragments on a group with sulfur, phosphorus or a halogen."""
        mol = Chem.MolFromSmiles(rng.choice(GROUPS))
        while ends := _open_ends(mol):
            piece = Chem.Mol(rng.choice(self.all))
            on_carbon = [e for e in _open_ends(piece) if e.GetNeighbors()[0].GetSymbol() == "C"]
            if not on_carbon:
                raise RecipeError("no open end at a carbon")
            end = rng.choice(on_carbon).GetIdx()
            for atom in piece.GetAtoms():  # only one end takes the group
                if atom.GetAtomicNum() == 0 and atom.GetIdx() != end:
                    atom.SetIsotope(atom.GetIsotope() + _CLOSED)
            mol = _join(mol, ends[0].GetIdx(), piece, end)
        return _capped(mol)


def variation(mol: Chem.Mol, rng: random.Random) -> Chem.Mol:
    """One to three hydrogens of carbons replaced by substituents, or aromatic CH by N."""
    mol = _without_stereo(mol)
    for _ in range(rng.choice((1, 1, 2, 3))):
        sites = [a for a in mol.GetAtoms() if a.GetSymbol() == "C" and a.GetTotalNumHs() and not a.GetFormalCharge()]
        if not sites:
            raise RecipeError("no CH")
        site = rng.choice(sites)
        if site.GetIsAromatic() and rng.random() < 0.25:
            edited = Chem.RWMol(mol)
            edited.ReplaceAtom(site.GetIdx(), Chem.Atom(7), preserveProps=False)
            edited.GetAtomWithIdx(site.GetIdx()).SetIsAromatic(True)
            mol = _sanitized(edited)
        else:
            mol = _attached(mol, site.GetIdx(), rng.choices(SUBSTITUENTS, _SUBSTITUENT_WEIGHTS)[0])
    return mol


def ion(mol: Chem.Mol, rng: random.Random) -> Chem.Mol:
    """One or two protons more or fewer at basic or acidic sites (never both, they would meet)."""
    options = [(+1, BASIC), (-1, ACIDIC)]
    rng.shuffle(options)
    for change, pattern in options:
        sites = [match[0] for match in mol.GetSubstructMatches(pattern)]
        if not sites:
            continue
        for index in rng.sample(sites, min(len(sites), rng.choice((1, 1, 1, 2)))):
            atom = mol.GetAtomWithIdx(index)
            atom.SetNumExplicitHs(atom.GetTotalNumHs() + change)
            atom.SetNoImplicit(True)
            atom.SetFormalCharge(atom.GetFormalCharge() + change)
        return _sanitized(mol)
    raise RecipeError("neither a base nor an acid")


def peptide(rng: random.Random) -> Chem.Mol:
    """Two to four residues, half of them capped with acetyl and amide."""
    residues = [rng.choice("ACDEFGHIKLMNPQRSTVWY") for _ in range(rng.randint(2, 4))]
    if rng.random() < 0.5:
        return Chem.MolFromSequence("".join(residues))
    first, last = (["[ac]", *residues], ["[am]"]) if len(residues) < 4 else (residues, ["[am]"])
    return Chem.MolFromHELM(f"PEPTIDE1{{{'.'.join([*first, *last])}}}$$$$")


def chain(rng: random.Random) -> Chem.Mol:
    """A long chain: a homologous series with ends, or mixed units."""
    if rng.random() < 0.4:
        units = [rng.choice(SERIES)] * rng.randint(3, 12)
    else:
        units = [rng.choice(CHAIN_UNITS) for _ in range(rng.randint(4, 10))]
    first, last = "C", rng.choice(CHAIN_ENDS)
    if rng.random() < 0.5:
        first = rng.choice("C NC OC ClC N#CC FC CSC SC O=C(O)C C=CC c1ccccc1C CC(C)C".split())
    return _parsed(first + "".join(units) + last)


def macrocycle(rng: random.Random) -> Chem.Mol:
    """A ring of 9 to 24 members."""
    mol = _parsed("C1" + "".join(rng.choice(RING_UNITS) for _ in range(rng.randint(3, 9))) + "C1")
    if not 9 <= max(len(ring) for ring in mol.GetRingInfo().AtomRings()) <= 24:
        raise RecipeError("not a macrocycle")
    return mol if rng.random() < 0.5 else variation(mol, rng)


def sugar(rng: random.Random) -> Chem.Mol:
    """A sugar with an aglycon, a base or a second sugar; hydroxyl groups may be esters or ethers. Any stereoisomer."""
    smiles = rng.choice(SUGARS).replace("*", "{}", 1)
    aglycon = rng.choice(AGLYCONS)
    if "{}" in aglycon:
        # The second sugar starts at its anomeric carbon.
        second = Chem.MolFromSmiles(rng.choice(SUGARS))
        dummy = next(a.GetIdx() for a in second.GetAtoms() if a.GetAtomicNum() == 0)
        written = Chem.MolToSmiles(second, rootedAtAtom=dummy, canonical=False).removeprefix("*")
        aglycon = aglycon.format(_renumbered_rings(written))
    mol = _parsed(smiles.format(_renumbered_rings(aglycon.removeprefix("*"))))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        hydroxyls = [a.GetIdx() for a in mol.GetAtoms() if a.GetSymbol() == "O" and a.GetTotalNumHs()]
        if hydroxyls:
            mol = _attached(mol, rng.choice(hydroxyls), rng.choice(HYDROXYL_CAPS))
    return mol


def recipes(molecules: Sequence[str]) -> dict[str, tuple[float, Callable[[random.Random], Chem.Mol]]]:
    """All recipes by name with their share of the draws.

    Args:
        molecules: SMILES of the molecules that fragments and variations are made from.
    """
    fragments = Fragments(molecules)

    def varied(rng: random.Random) -> Chem.Mol:
        known = rng.random() < 0.6
        return variation(Chem.MolFromSmiles(rng.choice(molecules)) if known else fragments.molecule(rng), rng)

    neutral: dict[str, tuple[float, Callable[[random.Random], Chem.Mol]]] = {
        "brics": (0.36, fragments.molecule),
        "variation": (0.24, varied),
        "group": (0.10, fragments.substituted),
        "peptide": (0.05, peptide),
        "chain": (0.03, chain),
        "macrocycle": (0.04, macrocycle),
        "sugar": (0.04, sugar),
    }

    def charged(rng: random.Random) -> Chem.Mol:
        shares, makers = zip(*neutral.values(), strict=True)
        return ion(rng.choices(makers, shares)[0](rng), rng)

    return {**neutral, "ion": (0.14, charged)}


def _open_ends(mol: Chem.Mol) -> list[Chem.Atom]:
    """Dummy atoms that may still take a fragment."""
    return [a for a in mol.GetAtoms() if a.GetAtomicNum() == 0 and a.GetIsotope() < _CLOSED]


def _is_double(end: Chem.Atom) -> bool:
    return end.GetBonds()[0].GetBondType() != Chem.BondType.SINGLE


def _join(first: Chem.Mol, first_end: int, second: Chem.Mol, second_end: int) -> Chem.Mol:
    """Both molecules, bonded in place of two of their dummy atoms."""
    first, second = Chem.Mol(first), Chem.Mol(second)
    first.GetAtomWithIdx(first_end).SetAtomMapNum(1)
    second.GetAtomWithIdx(second_end).SetAtomMapNum(1)
    return Chem.molzip(first, second)


def _capped(mol: Chem.Mol) -> Chem.Mol:
    """Hydrogen in place of every dummy atom; methyl at sulfonyl groups, which nobody knows with hydrogen."""
    edited = Chem.RWMol(mol)
    for atom in edited.GetAtoms():
        if atom.GetAtomicNum() == 0:
            atom.SetAtomicNum(6 if atom.GetIsotope() % _CLOSED == _SULFONYL else 1)
            atom.SetNoImplicit(False)
            atom.SetIsotope(0)
    return Chem.RemoveHs(_sanitized(edited))


def _attached(mol: Chem.Mol, site: int, substituent: str) -> Chem.Mol:
    """The substituent (its SMILES starts with a star) in place of a hydrogen of the site."""
    group = Chem.MolFromSmiles(substituent)
    first = mol.GetNumAtoms()
    edited = Chem.RWMol(Chem.CombineMols(mol, group))
    edited.AddBond(site, first + 1, Chem.BondType.SINGLE)
    atom = edited.GetAtomWithIdx(site)
    if atom.GetNumExplicitHs():
        atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    edited.RemoveAtom(first)
    return _sanitized(edited)


def _sanitized(mol: Chem.Mol) -> Chem.Mol:
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException as error:
        raise RecipeError(str(error)) from error
    return Chem.Mol(mol)


def _parsed(smiles: str) -> Chem.Mol:
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise RecipeError(smiles)
    return mol


def _renumbered_rings(smiles: str) -> str:
    """SMILES to be put into another: every ring label (digits outside brackets) raised by 3."""
    return re.sub(r"(\[[^]]*\])|(\d)", lambda found: found[1] or str(int(found[2]) + 3), smiles)


def _without_stereo(mol: Chem.Mol) -> Chem.Mol:
    """Any stereoisomer: a graph that is edited may have no geometry with the tags of the original."""
    out = Chem.Mol(mol)
    Chem.RemoveStereochemistry(out)
    return out
