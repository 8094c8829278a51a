"""The data of the consistency experiment, made by the package's own labelling command.

    pip download --no-deps auto3d==2.3.1 && python -m zipfile -e auto3d-*.whl auto3d
    python benchmarks/consistency/data.py --model-file auto3d/Auto3D/models/aimnet2_wb97m-d3_0.jpt

Needs MOPAC, PySCF (the extra ``label``) and ``datasets/qm9.h5`` (``consistent-calc import qm9``). About two
hours on two cores, half of it for PySCF; interrupted, it continues where it was stopped. Every step is the Python form
of one ``consistent-calc label`` command:

* ``pm6_<side>.h5``: PM6 minima, started at QM9's B3LYP structures: the cheap structures;
* ``at_pm6_<side>.h5``: energies and forces at wB97M-D3 (AIMNet2) at those geometries;
* ``minima_<side>.h5``: the wB97M-D3 minima in the same basins (of the training side a sample only, for fine-tuning);
* ``dft_train.h5``: B3LYP/6-31G(2df,p) energies and forces at PM6 geometries: a sample of true DFT;
* ``few_train.h5``: the same molecules at wB97M-D3 (AIMNet2), which tells the number of labels from their level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import Progress

from consistent_calc.data import Split
from consistent_calc.labelling.job import LabellingJob, run_job
from consistent_calc.labelling.names import EngineName

#: Molecules of each side; some are lost because PM6 breaks a bond or has no minimum in the basin.
PM6 = {Split.TRAIN: 9900, Split.VALIDATION: 120, Split.TEST: 450}

#: Molecules of each side whose accurate minimum is made, for fine-tuning and evaluation.
MINIMA = {Split.TRAIN: 400, Split.VALIDATION: None, Split.TEST: 220}

#: What two cores can do in an hour: 240 of the 305 training molecules that have at most 12 atoms.
DFT = {"molecules": 240, "max_atoms": 12}


def jobs(qm9: Path, folder: Path, model_file: Path) -> list[LabellingJob]:
    """All labelling jobs, those that others build on first."""
    out = []
    accurate = {"engine": EngineName.aimnet2, "model_file": str(model_file)}
    for side, molecules in PM6.items():
        pm6 = str(folder / f"pm6_{side}.h5")
        here = accurate | {"splits": (side,)}
        out += [
            LabellingJob(
                str(qm9), pm6, EngineName.mopac, minimize=True, splits=(side,), molecules=molecules, timeout=120
            ),
            LabellingJob(pm6, str(folder / f"at_pm6_{side}.h5"), **here, chunk=128),
            LabellingJob(pm6, str(folder / f"minima_{side}.h5"), **here, minimize=True, molecules=MINIMA[side]),
        ]
    cheap = str(folder / f"pm6_{Split.TRAIN}.h5")
    same = {"splits": (Split.TRAIN,)} | DFT
    few = LabellingJob(cheap, str(folder / "few_train.h5"), **accurate, **same)
    dft = LabellingJob(cheap, str(folder / "dft_train.h5"), EngineName.pyscf, timeout=900, chunk=4, **same)
    return [*out, few, dft]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-file", type=Path, required=True, help="AIMNet2's TorchScript file")
    parser.add_argument("--qm9", type=Path, default=Path("datasets/qm9.h5"))
    parser.add_argument("--folder", type=Path, default=Path("datasets/consistency"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--without-dft", action="store_true", help="leave out the slowest step")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with Progress() as bar:
        for job in jobs(arguments.qm9, arguments.folder, arguments.model_file):
            if Path(job.output).exists() or (arguments.without_dft and job.engine is EngineName.pyscf):
                continue
            task = bar.add_task(Path(job.output).name)
            report = run_job(
                job,
                workers=arguments.workers,
                on_progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
            )
            bar.console.print(f"{job.output}: {report}")


if __name__ == "__main__":
    main()
