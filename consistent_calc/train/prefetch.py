"""The next batch is made while the present one is learned from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as futures_wait
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls a function in a thread, one call ahead of what is taken.

    Neighbor searches ask the GPU for the size of their result and wait for it; in a thread with a CUDA stream of its
    own only that thread waits. What was taken must be kept until the caller's own stream is done with it (a step ends
    with reading its losses, which waits for that).

    Args:
        make: gives the items; it is never called by two threads at once.
        device: where the items are.
    """

    def __init__(self, make: Callable[[], T], device: torch.device) -> None:
        self._make = make
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._next: Future[T] | None = None

    def take(self) -> T:
        """The next item; errors of ``make`` are raised here."""
        current = self._next or self._thread.submit(self._call)
        self._next = None
        item = current.result()
        self._next = self._thread.submit(self._call)
        return item

    def wait(self) -> None:
        """Returns when nothing is being made; the next item is kept, and so is its error."""
        if self._next is not None:
            futures_wait([self._next])

    def _call(self) -> T:
        if self._stream is None:
            return self._make()
        with torch.cuda.stream(self._stream):
            item = self._make()
            self._stream.synchronize()
        return item
