"""The HTML of one result."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from consistent_calc.conformers.report.geometry import viewer_data
from consistent_calc.conformers.report.ladder import ladder, level_colors

if TYPE_CHECKING:
    from consistent_calc.conformers.result import ConformerEnsemble, ConformerResult

#: SD tags that are the same for all conformers; they stand above the table, not in it.
COMMON = ("id", "name", "smiles", "n", "level")

HEADINGS = {
    "conformer": "Conformer",
    "energy_eV": "Energy, eV",
    "relative_energy_kcal_mol": "Relative energy, kcal/mol",
    "boltzmann_weight": "Boltzmann weight",
    "generated_to_relaxed_kcal_mol": "Lowered by relaxation, kcal/mol",
    "generated_to_relaxed_rmsd_A": "Moved by relaxation, Å",
    "score_force_cosine": "Score along force, cosine",
    "converged": "Converged",
}


def molecule_section(ensemble: ConformerEnsemble, number: int) -> str:
    """A section with heading, facts, energy ladder, table and the data of the 3D view.

    Args:
        ensemble: at least one conformer.
        number: of the molecule on the page; makes the ids of the elements.
    """
    key, name = f"m{number}", escape(ensemble.name or ensemble.smiles)
    energies = [float(e) for e in ensemble.relative_energies]
    weights = [float(w) for w in ensemble.weights]
    colors = level_colors(energies)
    return (
        f'\n<section class="molecule" id="{key}" aria-labelledby="{key}-name">'
        f'<h2 id="{key}-name">{name}</h2>{_facts(ensemble)}'
        '<div class="views"><div class="view"></div>'
        f'<div class="scroll">{ladder(energies, weights, colors, f"Energy levels of {name}")}</div></div>'
        f"{_notes(ensemble)}{_table(ensemble, colors, name)}"
        f'<script type="application/json">{viewer_data(ensemble, colors)}</script></section>'
    )


def failure_row(result: ConformerResult) -> str:
    """A table row for an input without conformers."""
    assert result.failure is not None
    cells = (escape(result.name or result.id), f"<code>{escape(result.smiles)}</code>")
    reason, message = f"<code>{escape(result.failure.reason)}</code>", escape(result.failure.message)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in (*cells, reason, message)) + "</tr>"


def _facts(ensemble: ConformerEnsemble) -> str:
    """What holds for all conformers: the common SD tags, the formula, and samples by fate."""
    formula = re.sub(r"([A-Za-z])(\d+)", r"\1<sub>\2</sub>", escape(CalcMolFormula(ensemble.mol)))
    counts = ", ".join(f"{escape(k.replace('_', ' '))} {v}" for k, v in ensemble.counts.items())
    facts = {
        "Formula": formula,
        "SMILES": f"<code>{escape(ensemble.smiles)}</code>",
        "Level": escape(ensemble.level),
        "Id": escape(ensemble.id),
        "Conformers": str(len(ensemble)),
        "Samples": counts,
    }
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items()) + "</dl>"


def _notes(ensemble: ConformerEnsemble) -> str:
    if not ensemble.notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in ensemble.notes)}</ul>'


def _table(ensemble: ConformerEnsemble, colors: list[str], name: str) -> str:
    """The SD tags in which the conformers differ; each row has a box and a button for the script of the page."""
    rows = [ensemble.properties(k) for k in range(len(ensemble))]
    tags = [tag for tag in rows[0] if tag not in COMMON and tag != "conformer"]
    if len(set(ensemble.isomers)) == 1:
        tags.remove("smiles_3d")
    head = "".join(f'<th scope="col" title="SD tag {escape(t)}">{escape(HEADINGS.get(t, t))}</th>' for t in tags)
    body = "".join(
        f'<tr data-conformer="{k}"><td><input type="checkbox" autocomplete="off" checked '
        f'aria-label="Conformer {k + 1} in the superposition"></td>'
        f'<th scope="row"><button type="button"><span class="swatch" style="background:{colors[k]}"></span>{k + 1}'
        f"</button></th>{''.join(f'<td>{escape(row[tag])}</td>' for tag in tags)}</tr>"
        for k, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="Table of the conformers of {name}"><table>'
        '<thead><tr><th scope="col"><input type="checkbox" class="all" autocomplete="off" checked '
        'aria-label="All conformers in the superposition"></th>'
        f'<th scope="col" title="SD tag conformer">{HEADINGS["conformer"]}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
