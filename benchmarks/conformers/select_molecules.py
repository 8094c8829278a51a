"""Writes ``test_molecules.smi``: 60 QM9 molecules, 30 peptides and 10 drugs of the test buckets (95-99).

    python benchmarks/conformers/select_molecules.py --qm9 datasets/qm9.h5
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path

from rdkit import Chem

from consistent_calc.data.split import Split, bucket_of_smiles, split_of_bucket
from consistent_calc.data.store import Store

RESIDUES = {
    "G": "NCC(=O)",
    "A": "N[C@@H](C)C(=O)",
    "V": "N[C@@H](C(C)C)C(=O)",
    "L": "N[C@@H](CC(C)C)C(=O)",
    "I": "N[C@@H]([C@@H](C)CC)C(=O)",
    "S": "N[C@@H](CO)C(=O)",
    "T": "N[C@@H]([C@H](O)C)C(=O)",
    "C": "N[C@@H](CS)C(=O)",
    "M": "N[C@@H](CCSC)C(=O)",
    "P": "N1CCC[C@H]1C(=O)",
    "F": "N[C@@H](Cc1ccccc1)C(=O)",
    "Y": "N[C@@H](Cc1ccc(O)cc1)C(=O)",
    "N": "N[C@@H](CC(N)=O)C(=O)",
    "Q": "N[C@@H](CCC(N)=O)C(=O)",
}

DRUGS = """
CC(=O)Oc1ccccc1C(=O)O CC(C)Cc1ccc(cc1)C(C)C(=O)O CC(=O)Nc1ccc(O)cc1 Cn1c(=O)c2c(ncn2C)n(C)c1=O CN1CCC[C@H]1c1cccnc1
COc1ccc2cc(ccc2c1)[C@H](C)C(=O)O CN1[C@H]2CC[C@@H]1[C@@H](C(=O)OC)[C@H](C2)OC(=O)c1ccccc1 CC(N)Cc1ccccc1
CNC[C@H](O)c1ccc(O)c(O)c1 CC(C)NCC(O)COc1cccc2ccccc12 CCN(CC)CC(=O)Nc1c(C)cccc1C CC(C)NCC(O)COc1ccc(CC(N)=O)cc1
Clc1ccccc1C(c1ccccc1)(c1ccccc1)n1ccnc1 CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12 O=C1NC(=O)C(c2ccccc2)(c2ccccc2)N1
CCC1(c2ccccc2)C(=O)NC(=O)NC1=O CN(C)CCC=C1c2ccccc2CCc2ccccc12 CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1
OC(=O)c1ccccc1O NC(=O)c1cnccn1 NNC(=O)c1ccncc1 Nc1ccc(cc1)S(N)(=O)=O Cc1onc(NS(=O)(=O)c2ccc(N)cc2)c1
COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC OCC(O)C(O)C(O)C(O)CO CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O
O=C(O)Cc1ccccc1Nc1c(Cl)cccc1Cl CC(C(=O)O)c1cccc(c1)C(=O)c1ccccc1 CCOC(=O)c1ccc(N)cc1 CCN(CC)CCOC(=O)c1ccc(N)cc1
CN(C)C(=N)NC(=N)N CC(C)(C)NCC(O)c1ccc(O)c(CO)c1 CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F
CCCC1=NN(C)c2c1nc([nH]c2=O)-c1ccccc1 Cc1ncc([N+](=O)[O-])n1CCO FC(F)(F)C(Cl)Br CC(Cl)C(F)F CCC(CO)NCCNC(CC)CO
CC(C)(Oc1ccc(cc1)C(=O)c1ccc(Cl)cc1)C(=O)O CC(C)OC(=O)C(C)(C)Oc1ccc(cc1)C(=O)c1ccc(Cl)cc1 NCC1(CC(=O)O)CCCCC1
CC(C)C[C@H](CN)CC(=O)O CCCC(CCC)C(=O)O NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl CNC(=O)c1ccccc1 CC1=CC(=O)CC(C)(C)C1
C[C@@H]1CC[C@H]([C@@H](C1)O)C(C)C CC(C)=CCC/C(C)=C/CO C/C=C/C=C/C(=O)O CC1=C(C)C(=O)OC1 C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O
C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc34)[C@@H]1CC[C@@H]2O CC(=O)[C@H]1CC[C@H]2[C@@H]3CCC4=CC(=O)CC[C@]4(C)[C@H]3CC[C@]12C
CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5 COc1ccc2[nH]cc(CCNC(C)=O)c2c1 NCCc1c[nH]c2ccc(O)cc12
CN(C)CCc1c[nH]c2ccccc12 NCCc1ccc(O)c(O)c1 N[C@@H](Cc1ccc(O)c(O)c1)C(=O)O C[S@](=O)c1ccccc1 CCS(=O)(=O)N1CCCC1
O=C1CN(/N=C/c2ccc(o2)[N+](=O)[O-])C(=O)N1 Fc1ccc(cc1)C(=O)CCCN1CCC(O)(CC1)c1ccc(Cl)cc1 CC(C)n1c(/C=C/C(O)CC(O)CC(=O)O)c(-c2ccc(F)cc2)c2ccccc12
CCOC(=O)C1=C(C)NC(C)=C(C1c1cccc(c1)[N+](=O)[O-])C(=O)OC Nc1nc2c(ncn2COCCO)c(=O)[nH]1 Nc1ccn([C@@H]2CS[C@H](CO)O2)c(=O)n1
Cc1cn([C@H]2C[C@H](N=[N+]=[N-])[C@@H](CO)O2)c(=O)[nH]c1=O O=c1[nH]cc(F)c(=O)[nH]1 CSCC[C@H](N)C(=O)NC Clc1ccc(cc1)C1CNCC(=O)N1
CN1CCN(CC1)c1ccccc1 O=C(NC1CCCCC1)NS(=O)(=O)c1ccccc1 CC1(C)CC(=O)C=C(C1)N1CCOCC1 OB(O)c1ccccc1 CCCCNC(=O)NS(=O)(=O)c1ccc(C)cc1
CN1CCC(CC1)=C1c2ccccc2CCc2ccc(Cl)cc12 CCN1CCCC1CNC(=O)c1cc(ccc1OC)S(N)(=O)=O Cc1ccc(cc1)C(=O)N1CCCC1C(N)=O COCCc1ccc(OCC(O)CNC(C)C)cc1
C1CC2CCC1N2 O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1 CC(C)(N)Cc1ccccc1 CC1CCCCN1CC(=O)Nc1ccccc1 CCCCN1CCCCC1C(=O)Nc1c(C)cccc1C
CN1CCc2cc(Cl)c(O)cc2C(C1)c1ccccc1 c1ccc2c(c1)CCN1CCCC21 CC(CN(C)C)CN1c2ccccc2Sc2ccccc12 CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc12
""".split()


def is_test(smiles: str) -> bool:
    """Whether the molecule belongs to the test side."""
    return Chem.MolFromSmiles(smiles) is not None and split_of_bucket(bucket_of_smiles(smiles)) is Split.TEST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qm9", type=Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(0)
    data = Store(arguments.qm9).read(Split.TEST)
    qm9 = rng.sample([str(s) for s, n in zip(data.smiles, data.bond_offset[1:] - data.bond_offset[:-1]) if n], 60)
    combinations = [c for k in (2, 3) for c in itertools.product(RESIDUES, repeat=k)]
    rng.shuffle(combinations)
    peptides = (f"CC(=O){''.join(RESIDUES[r] for r in c)}NC" for c in combinations)
    chosen = list(itertools.islice((s for s in peptides if is_test(s)), 30))
    drugs = [s for s in DRUGS if is_test(s)][:10]
    # Where fewer than ten of the drugs are test molecules, more peptides fill up to a hundred.
    chosen += list(itertools.islice((s for s in peptides if is_test(s)), 10 - len(drugs)))
    lines = [f"{s} {kind}_{k}" for kind, part in (("qm9", qm9), ("peptide", chosen), ("drug", drugs)) for k, s in enumerate(part)]
    target = Path(__file__).parent / "test_molecules.smi"
    target.write_text("# Test molecules (buckets 95-99), made by select_molecules.py\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
