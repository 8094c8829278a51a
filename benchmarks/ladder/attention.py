"""Does attention earn its cost? The base network with and without it, at equal cost.

    python benchmarks/ladder/attention.py --data datasets/organic.h5 [--minutes 15]

Each radial function of each edge is multiplied by ``2 sigmoid(q_i k_j)`` of the receiver's query and the sender's key,
as many heads as radial functions: what a distance means then depends on both atoms. This is attention without a
softmax, as in TorchMD-NET's equivariant transformer (Tholke, De Fabritiis 2022), so that sums grow with the number of
neighbors as before; a zero product is the network without attention. Both are trained as by ``run.py``, one after the
other, and timed in plain torch with its autograd: the kernels written by hand do not know attention.
``results/attention.csv`` has a row for each.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import run
import torch
from torch import Tensor, nn

import consistent_calc.nn.encoder
from consistent_calc import ConsistentModel
from consistent_calc.nn.kernels import PLAIN
from consistent_calc.nn.layers import Message
from consistent_calc.train.configuration import Architecture

#: Length of the query and the key of a head.
SIZE = 8


class AttentiveMessage(Message):
    """Sends the neighbors' features along the edges, with attention."""

    def __init__(self, channels: tuple[int, ...], radial_size: int, mean_neighbors: float) -> None:
        super().__init__(channels, radial_size, mean_neighbors)
        self.query, self.key = (nn.Linear(channels[0], radial_size * SIZE, bias=False) for _ in range(2))

    def forward(self, features: list[Tensor], edges: Tensor, radial: Tensor, *others: Any) -> list[Tensor]:
        """As :meth:`consistent_calc.nn.layers.Message.forward`."""
        scalars = self.normalize(features[0])
        query, key = (layer(scalars).unflatten(1, (-1, SIZE)) for layer in (self.query, self.key))
        receiver, sender = edges
        attention = 2 * torch.sigmoid((query[receiver] * key[sender]).sum(2) * SIZE**-0.5)
        return super().forward(features, edges, radial * attention, *others)


def by_autograd(model: ConsistentModel, *arguments: Tensor) -> tuple[Tensor, ...]:
    """In place of :meth:`ConsistentModel.detached_edge_gradients`."""
    found = model.edge_gradients_by_autograd(*arguments, kernels=PLAIN, create_graph=False)
    return tuple(x.detach() for x in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/organic.h5"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of training for each")
    parser.add_argument("--runs", type=Path, default=Path("runs/attention"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in ("base", "attention"):
        attentive = patch.object(consistent_calc.nn.encoder, "Message", AttentiveMessage)
        with (
            attentive if name == "attention" else nullcontext(),
            patch.object(ConsistentModel, "detached_edge_gradients", by_autograd),
        ):
            rows.append(run.train(name, Architecture(), options) | run.times(run.folder(name, options)))
        print(rows[-1], flush=True)
    run.write_table("attention.csv", rows)


if __name__ == "__main__":
    main()
