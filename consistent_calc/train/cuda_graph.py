"""Losses and gradients of the energy task as one CUDA graph.

A step of a small network is thousands of short kernels, which Python takes longer to start than the GPU to run. A CUDA
graph records them once and starts them all together. Its tensors have fixed sizes, so batches are filled up with atoms
that have neither neighbors nor labels and belong to structures of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from consistent_calc.train.batches import EnergyBatch
from consistent_calc.train.objective import Objective


@dataclass(frozen=True)
class Size:
    """Size of a batch; :func:`pad` needs room for at least as many atoms as structures."""

    atoms: int
    edges: int
    graphs: int

    @classmethod
    def of(cls, batch: EnergyBatch) -> Size:
        """Of a batch as it is."""
        return cls(len(batch.positions), len(batch.vectors), len(batch.counts))

    def holding(self, other: Size) -> Size:
        """The smallest size that holds both."""
        return Size(max(self.atoms, other.atoms), max(self.edges, other.edges), max(self.graphs, other.graphs))

    def with_room(self, factor: float = 1.05) -> Size:
        """Larger by a factor, and by what :func:`pad` needs."""
        graphs = int(self.graphs * factor) + 1
        return Size(self.atoms + max(int(self.atoms * (factor - 1)), graphs), int(self.edges * factor), graphs)

    def holds(self, other: Size) -> bool:
        """Whether a batch of another size can be filled up to this one."""
        graphs = self.graphs - other.graphs
        return graphs >= 1 and self.atoms - other.atoms >= graphs and self.edges >= other.edges


def pad(batch: EnergyBatch, size: Size, cutoff: float) -> EnergyBatch:
    """Fills a batch up to a size that holds it, without an effect on losses and gradients.

    Args:
        batch: as it comes.
        size: ``size.holds(Size.of(batch))``.
        cutoff: of the model, Angstrom; the added edges are longer.
    """
    now = Size.of(batch)
    extra = Size(size.atoms - now.atoms, size.edges - now.edges, size.graphs - now.graphs)
    device = batch.graph.device
    # No added structure is empty (it would divide by zero), no added atom takes the sums of all added edges.
    graph = now.graphs + torch.arange(extra.atoms, device=device) % extra.graphs
    ends = now.atoms + torch.arange(extra.edges, device=device) % extra.atoms
    added = {
        "graph": graph,
        "edges": ends.expand(2, -1),
        "vectors": batch.vectors.new_full((extra.edges, 3), 2 * cutoff),
        "counts": torch.ones_like(batch.counts[:1]).expand(extra.graphs),
    }
    missing = {"energy": extra.graphs, "dipole": extra.graphs, "forces": extra.atoms, "charges": extra.atoms}
    of_atoms, of_graphs = ("positions", "elements", "repulsive_forces"), ("charge", "level", "repulsion")
    zero = dict.fromkeys(of_atoms, extra.atoms) | dict.fromkeys(of_graphs, extra.graphs)
    for names, value in ((missing, torch.nan), (zero, 0)):
        for name, n in names.items():
            tensor = getattr(batch, name)
            added[name] = tensor.new_full((n, *tensor.shape[1:]), value)
    joined = {
        name: torch.cat([getattr(batch, name), tail], dim=1 if name == "edges" else 0) for name, tail in added.items()
    }
    return EnergyBatch(**joined, has_forces=True)


class CapturedEnergyTask:
    """Replays the energy task's losses and gradients.

    Nothing else may use the GPU while this is made.

    Args:
        objective: on a CUDA device; what it compiles has been compiled before.
        example: any batch.
        size: of the largest batch that can be replayed.
    """

    def __init__(self, objective: Objective, example: EnergyBatch, size: Size) -> None:
        self._objective = objective
        self._parameters = list(objective.model.parameters())
        self._size = size
        self._static = pad(example, size, objective.model.cutoff)
        # A first call outside, on a stream of its own: libraries allocate their workspaces then.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses, self._gradients = self._compute()

    def holds(self, batch: EnergyBatch) -> bool:
        """Whether a batch is small enough."""
        return self._size.holds(Size.of(batch))

    def backward(self, batch: EnergyBatch) -> dict[str, Tensor]:
        """Sets the gradients of all parameters, as ``backward`` from none would, and returns the losses.

        Losses and gradients are valid until the next call.
        """
        padded = pad(batch, self._size, self._objective.model.cutoff)
        for field in fields(EnergyBatch):
            if field.name != "has_forces":
                getattr(self._static, field.name).copy_(getattr(padded, field.name))
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return dict(self._losses)

    def _compute(self) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        losses = self._objective.energy_losses(self._static)
        total = self._objective.total(losses)
        gradients = torch.autograd.grad(total, self._parameters, allow_unused=True)
        return {name: value.detach() for name, value in losses.items()}, gradients
