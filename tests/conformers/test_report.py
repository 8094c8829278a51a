"""The HTML page of conformers: its content, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMultipleConfs
from typer.testing import CliRunner

from consistent_calc.checkpoint import save_model
from consistent_calc.cli import app
from consistent_calc.conformers import ConformerResult, Failure, generate_conformers
from consistent_calc.conformers.report import ReportWriter, write_report
from consistent_calc.conformers.report.geometry import superimposed
from consistent_calc.conformers.report.ladder import ladder, level_colors
from consistent_calc.errors import DataError

EVIL = "ethanol <b onmouseover=alert(1)>\"'</b></script><script>alert(2)</script><!-- results --> $title"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags with their attributes, the text, the style and the scripts of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.style, self.scripts, self.open = [], "", "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def of_class(self, name):
        return [(tag, attrs) for tag, attrs in self.tags if name in (attrs.get("class") or "").split()]

    def data(self):
        """The JSON of every molecule."""
        return [json.loads(s) for (_, a), s in zip(self.all("script"), self.scripts, strict=True) if a.get("type")]

    def all(self, tag):
        return [(t, a) for t, a in self.tags if t == tag]


@pytest.fixture
def results(force_field):
    """Butanol, a molecule with an evil name, and a failure with an evil text."""
    model = force_field("CCCCO", "CCO")
    ensembles = [generate_conformers(s, 4, model=model, denoise=False) for s in ("CCCCO", "CCO")]
    good = [ConformerResult(f"m{k}", e.name, e.smiles, ensemble=e) for k, e in enumerate(ensembles)]
    good[1] = replace(good[1], ensemble=replace(ensembles[1], name=EVIL, notes=("a <i>note</i>",)))
    failure = Failure("invalid_smiles", "RDKit cannot read <img src=x onerror=alert(3)>")
    return [*good, ConformerResult("bad", "", "<img src=x onerror=alert(3)>", failure=failure)]


@pytest.fixture
def page(results, tmp_path):
    write_report(results, tmp_path / "page.html", settings={"seed": 0})
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_every_molecule_has_a_section_and_every_failure_a_row(page, results):
    assert len(page.of_class("molecule")) == 2
    n = len(results[0].ensemble) + len(results[1].ensemble)
    assert len(page.of_class("level")) == n
    assert len([a for _, a in page.all("tr") if "data-conformer" in a]) == n
    assert f"{n} conformers of 2 molecules" in page.text
    assert "1 input failed" in page.text
    assert "invalid_smiles" in page.text
    assert "unfinished" not in page.text
    for key, value in results[0].ensemble.properties(0).items():
        assert value in page.text, key


def test_given_text_stays_text(page):
    assert EVIL in page.text
    assert "a <i>note</i>" in page.text
    assert "<img src=x onerror=alert(3)>" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("b", "i", "img")]
    assert len(page.scripts) == 4  # the library, the page's own and two with data
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_nothing_is_fetched(page):
    for tag, attrs in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attrs
        if "href" in attrs:
            assert attrs["href"].startswith(("#", "data:,"))
    (policy,) = [a["content"] for _, a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "font:" in page.style
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_data_are_the_superimposed_conformers(page, results):
    for data, result in zip(page.data(), results, strict=False):
        mol = result.ensemble.mol
        assert data["elements"] == [a.GetSymbol() for a in mol.GetAtoms()]
        assert len(data["bonds"]) == 3 * mol.GetNumBonds()
        assert len(data["coordinates"]) == len(data["colors"]) == len(result.ensemble)
        for flat, conformer in zip(data["coordinates"], mol.GetConformers(), strict=True):
            assert all(isinstance(x, int) for x in flat)
            shown, true = np.array(flat).reshape(-1, 3) / 1000, conformer.GetPositions()
            assert distances(shown) == pytest.approx(distances(true), abs=3e-3)


def distances(positions):
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


@pytest.mark.parametrize("smiles", ["[H]C", "O", "CC", "C[C@H](N)C(=O)O", "[Cl-]"])
def test_superposition_leaves_the_input_and_the_handedness_alone(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    EmbedMultipleConfs(mol, 4, randomSeed=1)
    before = [c.GetPositions().copy() for c in mol.GetConformers()]
    after = [c.GetPositions() for c in superimposed(mol).GetConformers()]
    for old, unchanged, new in zip(before, mol.GetConformers(), after, strict=True):
        assert np.array_equal(old, unchanged.GetPositions())
        assert distances(new) == pytest.approx(distances(old), abs=1e-6)
        if len(old) > 3:
            turned = np.linalg.lstsq(old - old.mean(0), new - new.mean(0), rcond=None)[0]
            assert np.linalg.matrix_rank(old - old.mean(0), tol=1e-2) < 3 or np.linalg.det(turned) > 0
    heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    if len(heavy) > 2:
        spread = [np.abs(np.std([x[i] for x in xs], axis=0)).max() for xs in (after, before) for i in heavy]
        assert max(spread[: len(heavy)]) < max(spread[len(heavy) :])


def test_a_page_without_results(tmp_path):
    write_report([], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "0 conformers of 0 molecules" in page.text
    assert not page.of_class("molecule")
    assert page.open == []


def test_the_page_is_complete_after_every_result_and_says_when_it_is_unfinished(results, tmp_path):
    path = tmp_path / "page.html"

    def interrupted():
        yield results[0]
        yield results[2]
        first = path.read_text(encoding="utf-8")  # on disk before the job ends, so nothing is lost even by a kill
        assert first.endswith("</html>\n")
        assert "invalid_smiles" in first
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(interrupted(), path)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.of_class("molecule")) == len(page.data()) == 1
    assert "unfinished" in page.text
    assert page.open == []


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_resumed_page_is_the_whole_page(results, tmp_path, cut):
    write_report(results, tmp_path / "whole.html")
    path = tmp_path / "parts.html"
    with ReportWriter(path) as report:
        for result in results[:cut]:
            report.add(result)
        report.close(finished=False)
    with ReportWriter(path, resume=True) as report:
        for result in results[cut:]:
            report.add(result)
    assert path.read_bytes() == (tmp_path / "whole.html").read_bytes()


def test_only_a_report_is_continued(tmp_path):
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(DataError, match="no report"):
        ReportWriter(tmp_path / "other.html", resume=True)
    assert (tmp_path / "other.html").read_text() == "<html></html>"
    ReportWriter(tmp_path / "new.html", resume=True).close()
    assert (tmp_path / "new.html").stat().st_size > 1000


def test_odd_characters_do_not_stop_the_writer(results, tmp_path):
    with ReportWriter(tmp_path / "page.html", title="50 % <b> $failures \udcff") as report:
        report.add(replace(results[2], name="a\udcffb \0 \u2028"))
        report.add(results[0])
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "50 % <b> $failures ?" in page.text
    assert "a?b" in page.text
    assert len(page.data()) == 1


@pytest.mark.parametrize("energies", [[0.0], [0.0, 1e-9], [0.0, 0.3, 0.31], [k / 7 for k in range(150)], [0.0, 4e4]])
def test_ladders_of_any_shape(energies):
    colors = level_colors(energies)
    assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in colors)
    svg = ladder(energies, [1 / len(energies)] * len(energies), colors, "label")
    heights = [float(y) for y in re.findall(r'y1="([\d.]+)" y2="[\d.]+" stroke', svg)]
    assert len(heights) == len(energies)
    assert heights == sorted(heights, reverse=True)
    assert all(0 < y < 336 for y in heights)
    assert 3 <= svg.count('class="grid"') <= 7


def test_the_command_writes_a_report(model, tmp_path):
    checkpoint = save_model(model, tmp_path / "untrained")
    options = ["--checkpoint", str(checkpoint), "-o", str(tmp_path / "out.sdf"), "--fmax", "1000", "-n", "2"]
    run = CliRunner().invoke(app, ["conformers", "C methane", "C1CC", "--report", str(tmp_path / "r.html"), *options])
    assert run.exit_code == 1  # one input is broken
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(page.of_class("molecule")) == 1
    assert "invalid_smiles" in page.text
    assert "unfinished" not in page.text
    run = CliRunner().invoke(app, ["conformers", "C", "--report", str(tmp_path / "out.sdf"), *options])
    assert run.exit_code == 1
    assert "written by the job already" in " ".join(run.stderr.split())


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_in_a_browser(results, tmp_path):
    write_report(results, tmp_path / "page.html")
    dom, console = browse(tmp_path / "page.html", tmp_path)
    assert console == []
    page = Page(dom)
    assert len(page.all("canvas")) == 2
    n = len(results[0].ensemble)
    assert f"{n} of {n} conformers superimposed" in page.text
    assert EVIL in page.text
    assert not page.all("img")

    # A click on the second level; the policy of the page would forbid this script.
    click = (
        "<script>addEventListener('load', () => setTimeout(() => document.querySelectorAll('.level')[1]"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true})), 1000))</script>"
    )
    html = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", (tmp_path / "page.html").read_text())
    (tmp_path / "clicked.html").write_text(html.replace("</html>", click + "</html>"))
    dom, console = browse(tmp_path / "clicked.html", tmp_path)
    assert console == []
    page = Page(dom)
    assert [a["data-conformer"] for _, a in page.of_class("level") if a["aria-checked"] == "true"] == ["1"]
    assert [a["data-conformer"] for _, a in page.of_class("chosen")] == ["1"]
    assert f"Conformer 2, {float(results[0].ensemble.relative_energies[1]):.2f} kcal/mol" in page.text


def browse(path, folder):
    """The document after its scripts have run, and the lines of the console."""
    run = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--no-first-run", f"--user-data-dir={folder / 'browser'}",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1200,2400",
            "--enable-logging=stderr", "--virtual-time-budget=6000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]
