"""What several processes of one training have to agree on, so that together they train what one would with the whole batch.

Every process computes the losses of its part of the batch; the gradients are averaged (DDP). A sum over a count becomes
``own sum / per_rank(count)``, whose mean over the ranks is the sum of all over the count of all. A loss that is no such quotient
is computed from ``total(sums)``, the same on every rank.

Without a process group every function returns what it is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def number() -> int:
    """How many processes train together; 1 without a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def own() -> int:
    """Which of them this is; 0 without a group."""
    return distributed.get_rank() if number() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return own() == 0


def total(sums: Tensor) -> Tensor:
    """Sum over all ranks.

    Its gradient is the number of ranks: every rank differentiates the same loss of the total, and gradients are averaged.
    """
    if number() == 1:
        return sums
    found = sums.detach().clone()
    distributed.all_reduce(found)
    return found + number() * (sums - sums.detach())


def per_rank(count: Tensor, at_least: float = 1.0) -> Tensor:
    """What a rank divides its own sum by: the count of all ranks, at least ``at_least``, over the number of ranks; float32."""
    return total(count.detach().float()).clamp(min=at_least) / number()


def gather(rows: Tensor) -> list[Tensor]:
    """``[n_r, ...]`` of every rank, n_r may differ; no gradient."""
    if number() == 1:
        return [rows]
    length = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.zeros_like(length) for _ in range(number())]
    distributed.all_gather(lengths, length)
    longest = max(int(found) for found in lengths)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(parts, padded.contiguous())
    return [part[: int(found)] for part, found in zip(parts, lengths, strict=True)]


def from_first(values: Tensor) -> Tensor:
    """The first rank's values, of the same shape everywhere."""
    if number() > 1:
        values = values.contiguous()
        distributed.broadcast(values, 0)
    return values


def gather_objects(value: Any) -> list[Any]:
    """Any picklable value of every rank; for small ones, on the CPU."""
    if number() == 1:
        return [value]
    values: list[Any] = [None] * number()
    distributed.all_gather_object(values, value)
    return values


def largest(value: int) -> int:
    """Of all ranks."""
    return max(gather_objects(value))


def any_of(flag: bool) -> bool:
    """Whether it is true on any rank."""
    return any(gather_objects(flag))


def wait() -> None:
    """Until every rank is here."""
    if number() > 1:
        distributed.barrier()
