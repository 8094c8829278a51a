"""Conformers as one HTML page that needs no network: 3D views, energy ladders, tables and failures.

The page holds the library 3Dmol.js (its build and its licence lie beside this file). It grows result by result and is
complete HTML after each of them, so that an interrupted job leaves a page of what it has done.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from types import TracebackType
from typing import BinaryIO, Self

from consistent_calc import __version__
from consistent_calc.conformers.report.sections import failure_row, molecule_section
from consistent_calc.conformers.result import ConformerResult
from consistent_calc.errors import DataError

__all__ = ["ReportWriter", "write_report"]

#: Bytes kept free for the line that counts the results, which is written over again and again.
SUMMARY_BYTES = 400

#: Stands between the molecules and the failures, and counts the former and their conformers; no text of a user can be
#: taken for it, as it is escaped.
END_OF_RESULTS = re.compile(rb"<!-- end of results: (\d+) molecules, (\d+) conformers -->")
FAILURE = "<!-- failure -->"

UNFINISHED = "This page is unfinished: the job is still running or was stopped. It shows the results so far."


def write_report(
    results: Iterable[ConformerResult],
    path: str | Path,
    *,
    title: str = "Conformers",
    settings: Mapping[str, object] | None = None,
) -> None:
    """Writes one self-contained HTML page of conformers and failures.

    Args:
        results: as :func:`consistent_calc.conformers.generate_many` yields them.
        path: the HTML file; an existing one is overwritten.
        title: heading of the page.
        settings: how the conformers were made, shown under the heading.

    Raises:
        OSError: the file cannot be written.
    """
    with ReportWriter(path, title=title, settings=settings) as report:
        for result in results:
            report.add(result)


class ReportWriter:
    """Writes the page of :func:`write_report` result by result; a context manager.

    Args:
        path: and the others, see :func:`write_report`.
        resume: keep the results of an existing page and add to them.
        expected: inputs that were done before; the page tells how many of them it does not show.

    Raises:
        DataError: the page to be continued is none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        title: str = "Conformers",
        settings: Mapping[str, object] | None = None,
        resume: bool = False,
        expected: int = 0,
    ) -> None:
        head, _, tail = _page(title, settings or {}).partition("<!-- results -->")
        before_summary, _, after_summary = head.partition("<!-- summary -->")
        self._before_failures, _, self._after_failures = tail.partition("<!-- failures -->")
        self._molecules = self._conformers = 0
        self._failures: list[str] = []
        earlier = self._earlier_results(Path(path), _bytes(after_summary)) if resume and Path(path).exists() else b""
        self._elsewhere = max(0, expected - self._molecules - len(self._failures))
        self._file: BinaryIO = Path(path).open("wb")
        self._summary_at = self._file.write(_bytes(before_summary))
        body = b" " * SUMMARY_BYTES + _bytes(after_summary) + earlier
        self._end = self._summary_at + self._file.write(body)
        self._write("", finished=False)

    def _earlier_results(self, path: Path, before_results: bytes) -> bytes:
        """The molecules of an existing page; they are counted, and its failures taken over."""
        page = path.read_bytes()
        end, start = END_OF_RESULTS.search(page), page.find(before_results)
        if end is None or start < 0:
            raise DataError(f"{path} is no report of this version, so it cannot be continued; give another file.")
        self._molecules, self._conformers = int(end[1]), int(end[2])
        rows = page[end.end() :].decode("utf-8").split("</tbody>")[0].split(FAILURE)[1:]
        self._failures = [FAILURE + row for row in rows]
        return page[start + len(before_results) : end.start()]

    def add(self, result: ConformerResult) -> None:
        """Adds one result; the file is a complete page afterwards.

        Raises:
            OSError: the file cannot be written.
        """
        if result.ensemble is None:
            self._failures.append(FAILURE + failure_row(result))
            self._write("", finished=False)
            return
        self._molecules += 1
        self._conformers += len(result.ensemble)
        self._write(molecule_section(result.ensemble, self._molecules), finished=False)

    def close(self, *, finished: bool = True) -> None:
        """Closes the file.

        Args:
            finished: whether all results are there; else the page says that some may be missing.
        """
        if not self._file.closed:
            self._write("", finished=finished)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def _write(self, section: str, *, finished: bool) -> None:
        """Puts a section and the end of the page in the place of the old end, and renews the summary."""
        marker = f"<!-- end of results: {self._molecules} molecules, {self._conformers} conformers -->"
        new, tail = _bytes(section), marker + self._before_failures + self._failure_table() + self._after_failures
        self._file.seek(self._end)
        self._file.write(new + _bytes(tail))
        self._file.truncate()
        self._end += len(new)
        self._file.seek(self._summary_at)
        self._file.write(_bytes(self._summary(finished)).ljust(SUMMARY_BYTES))
        self._file.flush()

    def _summary(self, finished: bool) -> str:
        text = f"{_count(self._conformers, 'conformer')} of {_count(self._molecules, 'molecule')}"
        if self._failures:
            text += f'; <a href="#failures">{_count(len(self._failures), "input")} failed</a>'
        if self._elsewhere:
            text += f"; {_count(self._elsewhere, 'input')} done before this page was begun"
        return f"<p>{text}</p>" + ("" if finished else f'<p class="warning">{UNFINISHED}</p>')

    def _failure_table(self) -> str:
        if not self._failures:
            return ""
        return (
            '<section id="failures" aria-labelledby="failures-title"><h2 id="failures-title">Failures</h2>'
            '<div class="scroll" tabindex="0" role="group" aria-label="Table of failures"><table><thead><tr>'
            '<th scope="col">Input</th><th scope="col">SMILES or text</th><th scope="col">Reason</th>'
            f'<th scope="col">Message</th></tr></thead><tbody>{"".join(self._failures)}</tbody></table></div></section>'
        )


def _page(title: str, settings: Mapping[str, object]) -> str:
    """The page without results; three comments mark where summary, results and failures go."""
    library, script = _text("3Dmol-min.js"), _text("page.js")
    # Only these two scripts may run and nothing may be fetched, whatever a name or a SMILES holds.
    allowed = " ".join(f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'" for code in (library, script))
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in settings.items())
    return Template(_text("page.html")).substitute(
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:",
        title=escape(title),
        style=_text("page.css"),
        library=library,
        script=script,
        settings=f'<dl class="facts">{rows}</dl>' if rows else "",
        version=__version__,
        licences=escape(_text("3Dmol-LICENSES.txt")),
    )


def _text(name: str) -> str:
    """A file of this folder, with ``\\n`` at the ends of lines, as the browser sees it when it checks the hashes."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _bytes(text: str) -> bytes:
    """UTF-8; what a broken file name put into a text as half a character becomes a question mark."""
    return text.encode("utf-8", errors="replace")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
