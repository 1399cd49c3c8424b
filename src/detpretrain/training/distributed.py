"""Several processes that train one model: starting them, joining them, and what each of them does.

A job whose study asks for several GPUs (``runtime.gpus``) starts itself anew as so many processes (``relaunch``), over several
nodes (``runtime.nodes``) by ``srun``. They find each other by the variables of ``torchrun``, which may start them as well, or by
Slurm's.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from detpretrain.errors import InputError
from detpretrain.models import ranks
from detpretrain.training import launch

PATIENCE = timedelta(minutes=30)  # of a collective call: the first batch of a cold file system takes its time
PORT = 29_400  # of Slurm's rendezvous, plus a part of the job's number


def relaunch(processes: int, work: Path, nodes: int | None = None, cpus: int = 1) -> None:
    """Runs this program as so many processes and exits with their status; returns where that is not needed.

    Args:
        processes: 0 and 1 need none, nor does a process that was started as one of several.
        work: the training's work folder.
        nodes: of the Slurm job, over which ``srun`` starts them; None: on this machine.
        cpus: of each process, for ``srun``.
    """
    if processes < 2 or started_as_one_of_several(os.environ):
        return
    command = [sys.executable, *sys.orig_argv[1:]]
    if nodes is None:
        sys.exit(launch.here(command, processes, work))
    sys.exit(launch.by_slurm(command, processes, nodes, cpus, work))


def started_as_one_of_several(environment: Mapping[str, str]) -> bool:
    return "RANK" in environment or _slurm_tasks(environment) > 1


def place(environment: Mapping[str, str]) -> dict[str, str]:
    """``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT`` of this process; {} for a single one.

    Those of ``torchrun`` where it has set them, else from Slurm's variables.

    Raises:
        InputError: Slurm's list of nodes cannot be read.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if "RANK" in environment:
        return {name: environment[name] for name in names}
    if _slurm_tasks(environment) < 2:
        return {}
    values = (
        environment["SLURM_PROCID"],
        environment["SLURM_STEP_NUM_TASKS"],
        environment["SLURM_LOCALID"],
        _first_host(environment["SLURM_STEP_NODELIST"]),
        str(PORT + int(environment["SLURM_JOB_ID"]) % 10_000),
    )
    return dict(zip(names, values, strict=True))


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    """Processes of this step that ``srun`` started; a batch script, which has a ``SLURM_PROCID`` too, is none of them."""
    return int(environment.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_PROCID" in environment else 1


def _first_host(nodes: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise InputError(
            f"SLURM_STEP_NODELIST {nodes}: scontrol cannot expand it ({error}): start with torchrun"
        ) from None


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Joins the others for the time of a training and gives the device of this process: ``cuda`` becomes ``cuda:LOCAL_RANK``.

    Ranks beside the first print nothing: they would say the same. A single process has nobody to join. One that fails leaves
    the others by its end alone, so that it has told why before they notice.
    """
    here = place(os.environ)
    if int(here.get("WORLD_SIZE", 1)) < 2:
        yield device
        return
    os.environ.update(here)
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        device = f"cuda:{own_gpu(int(here['LOCAL_RANK']), torch.cuda.device_count())}"
        torch.cuda.set_device(device)
    # gloo beside nccl, for what is on the CPU: flags and validation results
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    with contextlib.redirect_stdout(sys.stdout if ranks.is_first() else io.StringIO()):
        try:
            yield device
        except SystemExit as stop:  # all stop together, and the first one, which saved the state, says so
            raise stop if leave() else SystemExit(0) from None
    leave()


def own_gpu(local: int, seen: int) -> int:
    """Which of the GPUs that this process sees is its own; Slurm may show each process its own alone.

    Raises:
        InputError: there are fewer.
    """
    if seen == 1 and _slurm_tasks(os.environ) > 1:
        return 0
    if local >= seen:
        raise InputError(f"runtime.gpus: process {local} of this machine finds {seen} GPUs: lower gpus, or add nodes")
    return local


def leave() -> bool:
    """Ends the work of all ranks together; True for the one that goes on alone, to write what was trained."""
    first = ranks.is_first()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return first


@contextmanager
def held_by_first(lock: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """The first rank's lock, which the others wait for."""
    with lock if ranks.is_first() else contextlib.nullcontext():
        ranks.wait()
        yield


def check_batch(name: str, batch_size: int, accumulate: int) -> None:
    """Raises ``InputError`` where the samples of a forward pass cannot be shared out evenly."""
    if batch_size // accumulate % ranks.number():
        raise InputError(
            f"recipe {name}: {batch_size // accumulate} samples per forward pass over {ranks.number()} processes: choose a "
            "number of GPUs that divides them"
        )


def replicated(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` with gradients averaged over all ranks; itself where there is one."""
    if ranks.number() == 1:
        return model
    # a step may leave parameters out: stems of other modalities, a pyramid level without an object
    return torch.nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=True)
