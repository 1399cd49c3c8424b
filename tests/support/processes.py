"""Functions of a test, run by two processes together (gloo, loopback)."""

import os
import socket
from pathlib import Path

import torch
from torch import distributed, multiprocessing

RANKS = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(folder: Path, function, *arguments) -> list:
    """What ``function(*arguments)`` returns in each process; it must be one of a module, its result such as torch saves."""
    multiprocessing.spawn(_process, (free_port(), str(folder), function, arguments), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pth") for rank in range(RANKS)]


def _process(rank, port, folder, function, arguments):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    torch.save(function(*arguments), os.path.join(folder, f"{rank}.pth"))
    distributed.destroy_process_group()
