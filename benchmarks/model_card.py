"""Writes the model card (``checkpoints/README.md``) and the figures in the README from the results of the benchmarks.

    python benchmarks/model_card.py

Every figure comes from the results beside the script that measured it; nothing is typed by hand.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from consistent_calc.checkpoint import read_card

HERE = Path(__file__).parent
ROOT = HERE.parent
MARKERS = "<!-- figures: written by benchmarks/model_card.py -->", "<!-- end of figures -->"


def results(name: str) -> dict[str, Any]:
    """Results of one benchmark."""
    return json.loads((HERE / name).read_text())


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""

    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(text(v) for v in line) + " |" for line in lines)


def validation_table(accuracy: dict[str, Any]) -> str:
    """One row a labelled data set."""
    rows = []
    for name, figures in accuracy.items():
        if "all" in figures:
            a = figures["all"]
            rows.append(
                [
                    name,
                    figures["level"],
                    a["n"],
                    a["force_mae_eV_A"],
                    a.get("relative_energy_mae_kcal_mol", "-"),
                    a.get("energy_mae_eV", "-"),
                    a.get("charge_mae_e", "-"),
                ]
            )
    header = ["data", "level", "structures", "force MAE (eV/Å)", "relative energy MAE (kcal/mol)"]
    return table([*header, "total energy MAE (eV)", "charge MAE (e)"], rows)


def breakdown(figures: dict[str, Any], key: str, label: str) -> str:
    """Errors per kind of structure or per element."""
    columns = {
        "n": "n",
        "force_mae_eV_A": "force MAE (eV/Å)",
        "relative_energy_mae_kcal_mol": "relative energy MAE (kcal/mol)",
        "charge_mae_e": "charge MAE (e)",
    }
    rows = figures[key]
    present = [c for c in columns if any(c in row for row in rows.values())]
    return table(
        [label, *(columns[c] for c in present)], [[k, *(r.get(c, "-") for c in present)] for k, r in rows.items()]
    )


def short_figures() -> str:
    """The tables and the list of the README."""
    accuracy, bfgs = results("accuracy/results/validation.json"), results("relaxation/results/bfgs.json")
    conformers, drugs = results("conformers/results/test_molecules.json"), results("relaxation/results/drug_like.json")
    faster, of_drugs = (run["bfgs_seconds"] / run["batch_seconds"] for run in (bfgs, drugs))
    lines = [
        validation_table(accuracy),
        "",
        f"- Relaxation of {bfgs['molecules']} validation molecules from ETKDG and MMFF94s, ASE's BFGS to 0.01 eV/Å: "
        f"{bfgs['bfgs_converged']} converge within 500 steps (median {bfgs['bfgs_steps_median']:.0f}), "
        f"{bfgs['bonds_changed']} change their bonds, {bfgs['stereo_changed']} their stereochemistry.",
        f"- `relax` needs a median of {bfgs['batch_steps_median']:.0f} steps and {faster:.1f} times less time "
        f"for the same molecules; for {drugs['molecules']} drug-like ones with 20-50 heavy atoms and "
        f"{drugs['threads']} threads, {of_drugs:.1f} times less (BFGS converges for {drugs['bfgs_converged']} of these "
        f"and changes the bonds of {drugs['bonds_changed']}).",
        f"- Dynamics of validation molecules: {stability_figures()}.",
        f"- Conformers of {conformers['molecules']} test SMILES: {conformers['with_result']} with a result, "
        f"{conformers['stereo_kept']} of {conformers['conformers']} conformers with the stereochemistry asked for, "
        f"{conformers['seconds_per_conformer']:.2g} s a conformer with {conformers['threads']} CPU thread(s).",
        "",
        f"Energies and forces on one core of an {box_figures()['processor']} with AVX-512, called again and again as"
        " in dynamics, times as long as ours (`benchmarks/speed/results/`):",
        "",
        speed_table(),
    ]
    return "\n".join(lines)


#: What is simulated in each ensemble of ``dynamics/stability.py``.
SETTING = {"NVE": "at constant energy, 300 K, float64", "Langevin": "with Langevin's thermostat at 600 K, float32"}
PEER = "AIMNet2 (1 network)"
#: What boxes of water take, see ``speed/run.py``.
MEMORY = "speed/results/summary_memory.csv"
#: Tests beside other methods: name in ``accuracy/results/summary.csv``, metrics.
TESTS = {
    "torsions": ("relative energy MAE (kcal/mol)", "barrier height MAE (kcal/mol)"),
    "conformers": ("relative energy MAE (kcal/mol)", "Spearman correlation"),
    "dimers": ("interaction energy MAE, at 1.0 (kcal/mol)", "largest interaction far apart (kcal/mol)"),
    "frequencies": ("frequency MAE (cm^-1)",),
}


def rows_of(name: str) -> list[dict[str, str]]:
    """A table of results."""
    with (HERE / name).open(newline="") as file:
        return list(csv.DictReader(file))


def beside_others() -> str:
    """Tests of energies against the teacher, ours beside GFN2-xTB and MMFF94s."""
    found = {(r["test"], r["metric"], r["method"]): r for r in rows_of("accuracy/results/summary.csv")}
    methods = ("ours", "GFN2-xTB", "MMFF94s")
    lines = []
    for test, metrics in TESTS.items():
        for metric in metrics:
            values = [found.get((test, metric, method)) for method in methods]
            n = next(v["n"] for v in values if v)
            lines.append([test, metric, n, *(float(v["value"]) if v else "-" for v in values)])
    return table(["test", "figure", "n", *methods], lines)


def dft_table(level: str) -> str:
    """Errors against true DFT: of all structures, and of those that fine-tuning has not seen."""
    parts = {level: "all", f"{level}, set aside": "set aside"}
    rows = [r for r in rows_of("accuracy/results/summary.csv") if r["test"] in parts]
    found = {(r["test"], r["method"], r["metric"]): float(r["value"]) for r in rows}
    n = {r["test"]: r["n"] for r in rows}
    columns = [(test, metric) for test in parts for metric in ("force MAE (eV/A)", "relative energy MAE (kcal/mol)")]
    header = ["method", *(f"{metric}, {parts[test]} {n[test]}" for test, metric in columns)]
    methods = dict.fromkeys(r["method"] for r in rows)
    return table(header, [[m, *(found.get((test, m, metric), "-") for test, metric in columns)] for m in methods])


def changed_bonds() -> str:
    """What becomes of the bonds that changed in dynamics."""
    parts = []
    for r in rows_of("dynamics/results/changed_bonds.csv"):
        after = "all have" if r["changed_at_end"] == "0" else f"{r['changed_at_end']} do not have"
        parts.append(
            f"`{r['smiles']}` did so in {r['records_changed']} of {r['records']} records of {r['copies']} more runs; "
            f"relaxed at their ends {after} the bonds of the start"
        )
    return "; ".join(parts)


def learning_figures() -> dict[str, str]:
    """What the targets would cost."""
    found = {r["metric"]: float(r["value"]) for r in rows_of("accuracy/results/summary.csv")}
    steps = int(rows_of("accuracy/results/learning_curve.csv")[-1]["steps"])
    out = {"all_steps": f"{steps:,}"}
    for name in ("force_mae_eV_A", "relative_energy_mae_kcal_mol"):
        kind = name.split("_")[0]
        power, interval = found[f"{name}: exponent"], found[f"{name}: 95% interval of it"]
        out[f"{kind}_power"] = f"{power:.2f} ± {interval:.2f}"
        out[f"{kind}_steps"] = f"{steps * found[f'{name}: steps for target / so far'] / 1000:,.0f},000"
    return out


def spread_figures() -> dict[str, str]:
    """How far the network that made the labels, and ours, are from the mean of the teacher's four."""
    rows = [r for r in rows_of("accuracy/results/summary.csv") if r["test"] == "teacher"]
    found = {(r["method"], r["metric"].split(" MAE")[0]): float(r["value"]) for r in rows}
    return {
        f"{key}_{short}": f"{found[method, kind]:.2g}"
        for key, method in (("one", "one network"), ("ours", "ours"))
        for short, kind in (("force", "force"), ("energy", "relative energy"))
    }


def long_range_table() -> str:
    """What terms beyond the cutoff could gain."""
    header = ["structures", "n", "term", "factor (forces)", "variance of force errors (%)"]
    header += ["factor (energies)", "variance of relative-energy errors (%)"]
    columns = ["force_factor", "force_variance_explained_percent", "energy_factor", "energy_variance_explained_percent"]
    rows = rows_of("accuracy/results/long_range.csv")
    return table(header, [[r["structures"], r["n"], r["term"], *(float(r[c]) for c in columns)] for r in rows])


def ladder_table() -> str:
    """Networks at equal training time."""
    rows = rows_of("ladder/results/ladder.csv")
    header = ["network", "channels", "layers", "cutoff (Å)", "steps", "force MAE (eV/Å)"]
    header += ["relative energy MAE (kcal/mol)", "21 atoms (ms)", "21 atoms in a batch (ms)"]
    columns = ["candidate", "channels", "layers", "cutoff_A", "steps", "force_mae_eV_A", "relative_energy_mae_kcal_mol"]
    columns += ["ms_one_molecule", "ms_a_molecule_in_batch"]
    return table(header, [[row[c] for c in columns] for row in rows])


def attention_figures() -> dict[str, str]:
    """The base network with and without attention, at equal training time."""
    out = {}
    for row in rows_of("ladder/results/attention.csv"):
        out[f"{row['candidate']}_steps"] = f"{int(row['steps']):,}"
        out[f"{row['candidate']}_force"] = f"{float(row['force_mae_eV_A']):.3f}"
        out["attention_minutes"] = row["minutes"]
    return out


def stability_table() -> str:
    """Dynamics of many validation molecules."""
    rows = rows_of("dynamics/results/stability_summary.csv")
    return table(["test", "figure", "value", "molecules"], [[r["test"], r["metric"], r["value"], r["n"]] for r in rows])


def stability_figures() -> str:
    """What became of the bonds in each ensemble, and of the energy where it is conserved."""
    rows = rows_of("dynamics/results/stability_summary.csv")
    found = {(r["test"], r["metric"]): r["value"] for r in rows}
    parts = []
    for test, n in {r["test"]: r["n"] for r in rows}.items():
        ensemble, length, _ = test.split(", ")
        intact = found[test, "molecules with all bonds intact"]
        part = f"{length} {SETTING[ensemble]}: {intact} of {n} keep all bonds"
        if ensemble == "NVE":
            largest, median = (found[test, f"{w} absolute drift (meV/atom/ps)"] for w in ("largest", "median of"))
            part += f", drift at most {largest}, in the median {median} meV per atom and ps"
        parts.append(part)
    return "; ".join(parts)


def speeds(name: str) -> dict[tuple[str, int, str], tuple[float, float]]:
    """Milliseconds, and their ratio to ours, by system, number of atoms and method."""
    return {
        (r["system"], int(r["atoms"]), r["method"]): (float(r["ms"]), float(r["ratio_to_ours"]))
        for r in rows_of(f"speed/results/{name}")
    }


def speed_table() -> str:
    """Times beside other models, as ratios."""
    found = speeds("summary.csv")
    systems = {
        "a molecule of 21 atoms": ("molecule", 21),
        "a molecule of 89 atoms": ("molecule", 89),
        "a batch of 256 molecules of 21 atoms": ("batch", 21),
    }
    peers = dict.fromkeys(method for system, n, method in found if (system, n) == ("molecule", 21))

    def ratio(peer: str, system: tuple[str, int]) -> str:
        return f"{found[*system, peer][1]:.2g}" if (*system, peer) in found else "-"

    rows = [[peer, *(ratio(peer, s) for s in systems.values())] for peer in peers if "ours" not in peer]
    return table(["method", *systems], rows)


def neighbor_figures() -> dict[str, str]:
    """The share of our time that the search for neighbors takes."""
    found = speeds("summary.csv")
    systems = {
        "neighbors_one": ("molecule", 21),
        "neighbors_batch": ("batch", 21),
        "neighbors_box": ("water box", 20577),
    }
    return {key: f"{100 * found[*system, 'neighbor list of ours'][1]:.2g}%" for key, system in systems.items()}


def box_figures() -> dict[str, str]:
    """Time and memory an atom of periodic boxes of water, and the processor of the table."""
    found = speeds("summary.csv")
    times = {n: ms / n for (system, n, method), (ms, _) in found.items() if (system, method) == ("water box", "ours")}
    small, large = sorted(times)
    memory = {int(r["atoms"]): float(r["peak_GiB_of_the_process_so_far"]) for r in rows_of(MEMORY)}
    return {
        "box_small": f"{small:,}",
        "box_large": f"{large:,}",
        "box_times": f"{times[small]:.3f} and {times[large]:.3f}",
        "box_memory": f"{(memory[large] - memory[small]) / (large - small) * 2**20:.0f}",
        "box_peak": f"{memory[large]:.1f}",
        "processor": rows_of(MEMORY)[0]["name"],
        "single_one": f"{speeds('single_calls.csv')['molecule', 21, PEER][1]:.2g}",
        "single_batch": f"{speeds('single_calls.csv')['batch', 21, PEER][1]:.2g}",
    }


def fine_tuning_table(name: str) -> str:
    """Errors on frames set aside, and at the default level, after fine-tuning on more and more frames."""
    rows = rows_of(f"accuracy/results/fine_tuning_{name}.csv")
    header = ["training", "frames", "force MAE (eV/Å)", "relative energy MAE (kcal/mol)"]
    header += ["force MAE at the default level (eV/Å)", "minutes on one core"]
    columns = ["force_mae_eV_A", "relative_energy_mae_kcal_mol", "known_force_mae_eV_A"]
    ordered = sorted(rows, key=lambda r: (r["run"], int(r["frames"])))
    return table(header, [[r["run"], r["frames"], *(float(r[c]) for c in columns), r["minutes"]] for r in ordered])


def cuda_figures() -> dict[str, str]:
    """Times on a GPU, and AIMNet2's as a share of ours."""
    found = speeds("cuda.csv")
    return {
        "cuda_one": f"{found['molecule', 21, 'ours'][0]:.0f}",
        "cuda_ratio": f"{100 * found['molecule', 21, PEER][1]:.0f}%",
        "cuda_box": f"{found['water box', 20577, 'ours'][0]:.0f}",
    }


def noise_figures() -> str:
    """How often pure noise becomes the molecule."""
    found = results("conformers/results/noise.json")
    samples = found["samples"]
    lost = sum(n for name, n in samples.items() if name.startswith("sampling_"))
    return (
        f"{found['with_result']} of the {found['molecules']} molecules have a result; {samples['sampled']} of "
        f"{samples['sampled'] + lost} attempts at these became the molecule"
    )


def prior_figures() -> str:
    """How often a sample of the harmonic prior becomes the molecule, beside isotropic noise."""
    rows = {
        (r["checkpoint"], r["set"], float(r["sigma_max_A"])): r for r in rows_of("conformers/results/from_noise.csv")
    }

    def share(name: str) -> str:
        new, old = rows["base", name, 1.5], rows["stage2", name, 8.0]
        return f"{new['right']} of {new['attempts']} of `{name}` (isotropic noise, stage 2: {old['right']})"

    return f"{share('qm9')} and {share('organic')}"


def card() -> str:
    """The whole model card."""
    accuracy, bfgs = results("accuracy/results/validation.json"), results("relaxation/results/bfgs.json")
    nve, conformers = results("dynamics/results/nve.json"), results("conformers/results/test_molecules.json")
    meta = read_card(ROOT / "checkpoints" / "base")
    record, architecture = meta["record"], meta["architecture"]
    dynamics = [
        [name, precision, *(m[k] for k in ("atoms", "drift_meV_per_atom_ps", "energy_std_meV_per_atom")),
         "yes" if m["bonds_intact"] else "no", m["steps_per_second"]]
        for precision, molecules in nve.items()
        for name, m in molecules.items()
    ]  # fmt: skip
    stationary = accuracy["rdb7"]
    points = [
        [name, p["n"], p["force_rms_eV_A_mean"], p["force_rms_eV_A_median"]]
        for name, p in stationary.items()
        if name != "barriers"
    ]
    barriers = stationary["barriers"]
    template = (HERE / "model_card_template.md").read_text()
    values = {
        "channels": ", ".join(map(str, architecture["channels"])),
        "layers": architecture["n_layers"],
        "cutoff": architecture["cutoff"],
        "parameters": f"{record['parameters']:,}",
        "steps": f"{record['steps']:,}",
        "hours": f"{record['hours']:.2f}",
        "structures": table(
            ["data", "level", "structures"], [[d["store"], d["level"], f"{d['structures']:,}"] for d in record["data"]]
        ),
        "validation": validation_table(accuracy),
        "label_rms": f"{accuracy['organic']['label_force_rms_eV_A']:.2f}",
        "kinds": breakdown(accuracy["organic"], "by_kind", "kind of structure"),
        "elements": breakdown(accuracy["organic"], "by_element", "element"),
        "charges": breakdown(accuracy["organic"], "by_charge", "total charge"),
        "prior": prior_figures(),
        "stationary": table(["point", "n", "mean rms force (eV/Å)", "median"], points),
        "barriers": f"{barriers['mae_kcal_mol']:.1f} kcal/mol (mean error {barriers['mean_error_kcal_mol']:+.1f}; "
        f"mean barrier {barriers['mean_barrier_kcal_mol']:.0f}; n = {barriers['n']})",
        "bfgs": table(["figure", "value"], [[k, v] for k, v in bfgs.items()]),
        "dynamics": table(
            ["molecule", "precision", "atoms", "drift (meV/atom/ps)", "std (meV/atom)", "bonds intact", "steps/s"],
            dynamics,
        ),
        "speed": speed_table(),
        **cuda_figures(),
        **neighbor_figures(),
        **box_figures(),
        **learning_figures(),
        **spread_figures(),
        "beside": beside_others(),
        "dft": dft_table("wB97M-D3BJ/def2-TZVPP"),
        "dft_svp": dft_table("wB97X-D3BJ/def2-SVP"),
        "fine_tuning": fine_tuning_table("dft_wb97x_svp"),
        "changed_bonds": changed_bonds(),
        "ladder": ladder_table(),
        "ladder_minutes": rows_of("ladder/results/ladder.csv")[0]["minutes"],
        **attention_figures(),
        "long_range": long_range_table(),
        "stability": stability_table(),
        "noise": noise_figures(),
        "conformers": table(["figure", "value"], [[k, v] for k, v in conformers.items()]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: str(values[match[1]]), template)


def main() -> None:
    (ROOT / "checkpoints" / "README.md").write_text(card())
    readme = ROOT / "README.md"
    start, end = MARKERS
    before, rest = readme.read_text().split(start)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{start}\n{short_figures()}\n{end}{after}")


if __name__ == "__main__":
    main()
