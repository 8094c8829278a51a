"""What an import did, for the log and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ImportReport:
    """Counts of an import.

    Attributes:
        n_molecules: molecules in the store.
        n_conformations: conformations in the store.
        n_equilibrium: conformations flagged as (near-)minima.
        n_without_graph: molecules whose bonds are unknown and that are therefore no targets of the structure head.
        failures: what was skipped, each with the entry (index, name or SMILES) and the reason.
    """

    n_molecules: int = 0
    n_conformations: int = 0
    n_equilibrium: int = 0
    n_without_graph: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.n_molecules} molecules, {self.n_conformations} conformations ({self.n_equilibrium} minima), "
            f"{self.n_without_graph} without a graph, {len(self.failures)} skipped"
        )
