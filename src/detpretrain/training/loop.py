"""The one training loop, for pre-training and fine-tuning alike: it knows batches, losses and recipes, not methods."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detpretrain import seeds
from detpretrain.errors import InputError
from detpretrain.models import ranks
from detpretrain.models.channels_last import channels_last
from detpretrain.termination import noticing_termination
from detpretrain.training import checkpoints, distributed
from detpretrain.training.launch import STOPPED_AT, STOPPED_BY_BUDGET, STOPPED_BY_SIGNAL
from detpretrain.training.logging import Log
from detpretrain.training.phases import freeze, frozen_parts, phase_at
from detpretrain.training.precision import autocast, used
from detpretrain.training.recipe import Recipe

CHECK_EVERY = 20  # steps between looks at the loss; each look waits for the device

Batch = tuple[Any, ...]


class Stopped(SystemExit):
    """The run ended early with its state saved; the same command goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the loop trains.

    Attributes:
        model: called as ``model(*batch)``, returns losses by name (scalars, summed).
        batches: ``batches(first_pass)`` iterates over the training batches from that forward pass on.
        validate: ``validate(model)`` -> metrics of one epoch; it sees the last weights.
        seed: parts of the run's seed; every forward pass reseeds torch from it.
        work: folder for the resumable state and for logs, not a declared result.
        signature: what a state must agree on to be resumed (recipe hash and input files).
    """

    model: nn.Module
    batches: Callable[[int], Iterator[Batch]]
    validate: Callable[[nn.Module], dict[str, float]]
    recipe: Recipe
    seed: Sequence[str | int]
    device: torch.device
    work: Path
    signature: str


def fit(run: Run, budget_minutes: float | None = None) -> list[dict[str, float]]:
    """Trains to the end of the recipe and leaves the final (averaged) weights in ``run.model``.

    Returns:
        One row per epoch, as in ``log.csv``.

    Raises:
        Stopped: SIGTERM (exit status 143) or the budget (75) ended the run early.
        InputError: the loss is not finite.
    """
    loop = _Loop(run)
    deadline = math.inf if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    with noticing_termination() as terminated, closing(loop.log):
        while loop.step < run.recipe.total_steps:
            loop.one_step()
            saved = loop.step % run.recipe.steps_per_epoch == 0
            if saved:
                loop.end_epoch()
            status = loop.asked_to_stop(terminated(), time.monotonic() > deadline)
            if status and loop.step < run.recipe.total_steps:
                if not saved:
                    loop.save()
                if ranks.is_first():
                    print(f"{STOPPED_AT} {loop.step} of {run.recipe.total_steps}, saved", file=sys.stderr, flush=True)
                raise Stopped(status)
    loop.finish()
    return loop.log.rows


class _Loop:
    """The state of a run: weights, optimiser, position, running average of weights, sums of the current epoch."""

    def __init__(self, run: Run) -> None:
        self.run, self.recipe = run, run.recipe
        self.model = run.model.to(run.device)
        if self.recipe.channels_last:
            self.model = channels_last(self.model)
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.phases, self.averaging = self.recipe.build_phases(), self.recipe.build_averaging()
        self.frozen = [frozen_parts(self.model, phase) for phase in self.phases]  # of all: a wrong name shows now
        self.autocast = autocast(self.recipe.precision, run.device)
        precision = used(self.recipe.precision, run.device)
        half = precision == "fp16"
        if precision != self.recipe.precision:
            print(f"precision {precision}: this {run.device.type} has no fast {self.recipe.precision}", flush=True)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=half)
        self.average, self.averaged = None, 0
        self.sums: dict[str, Tensor] = {}
        self.log = Log(run.work)
        self._resume()
        self.stream = run.batches(self.step * self.recipe.accumulate)
        self.started = time.monotonic()

    def one_step(self) -> None:
        """One optimiser step, of ``accumulate`` forward passes."""
        recipe = self.recipe
        epoch = self.step // recipe.steps_per_epoch
        if self.averaging and epoch >= self.averaging.start_epoch:
            if self.step % recipe.steps_per_epoch == 0:
                self._update_average()
            self.rate = self.averaging.lr(self.step, recipe.steps_per_epoch)
        else:
            self.rate = self.phase.rate(self.step, recipe.steps_per_epoch)
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = self.rate * scale
        self.model.train()
        for part in self.still:
            part.eval()  # norms that keep running statistics, and dropout, stand still too
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(recipe.accumulate):
            batch = next(self.stream)
            # after the batch: a loader draws from torch's generator when it starts, and a resumed run starts one elsewhere;
            # alike on all ranks, as models.draws needs it
            torch.manual_seed(seeds.derive(*self.run.seed, "step", self.step, part))
            with self._gradients_of_all(part == recipe.accumulate - 1):
                with self.autocast:
                    losses = self.replica(*batch)
                total = add_losses(self.sums, losses)
                self.scaler.scale(total / recipe.accumulate).backward()
        if recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.step % CHECK_EVERY == 0:
            self._check_finite()
            self.log.progress(self.step, recipe.total_steps, self._means())

    def asked_to_stop(self, terminated: bool, late: bool) -> int | None:
        """Exit status of a run that has to end now; several ranks look every few steps and end together."""
        if ranks.number() > 1:
            if self.step % CHECK_EVERY and self.step % self.recipe.steps_per_epoch:
                return None
            terminated, late = ranks.any_of(terminated), ranks.any_of(late)
        return STOPPED_BY_SIGNAL if terminated else STOPPED_BY_BUDGET if late else None

    def end_epoch(self) -> None:
        self._check_finite()
        torch.manual_seed(seeds.derive(*self.run.seed, "validation"))
        self.model.eval()
        with torch.no_grad(), self.autocast:
            metrics = self.run.validate(self.model)
        row = {
            "epoch": self.step // self.recipe.steps_per_epoch,
            "step": self.step,
            "lr": self.rate,
            **{f"train_{name}": value for name, value in self._means().items()},
            **{f"val_{name}": value for name, value in metrics.items()},
            "seconds": round(time.monotonic() - self.started, 3),
        }
        self.started, self.sums = time.monotonic(), {}
        self.log.epoch(row, self.recipe.epochs)
        if self.step == self.phase.end < self.recipe.total_steps:
            self._start_phase()
        self.save()

    def save(self) -> None:
        self._check_finite()
        self.sums = {name: ranks.total(value) / ranks.number() for name, value in self.sums.items()}
        if not ranks.is_first():
            return
        state = {
            "signature": self.run.signature,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "averaged": self.averaged,
            "sums": self.sums,
            "rows": self.log.rows,
        }
        checkpoints.save(self.run.work / "last.pth", state)

    def finish(self) -> None:
        if self.average is not None:
            self.model.load_state_dict(self.average, strict=False)
        freeze(self.trainable, [])

    def _start_phase(self) -> None:
        """What trains from this step on, with a new optimiser: one that was frozen has no state, and another schedule begins."""
        self.phase = phase_at(self.phases, self.step)
        self.still = self.frozen[self.phases.index(self.phase)]
        freeze(self.trainable, self.still)
        self.optimizer = self.recipe.build_optimizer(self.model)
        self.scales = [group["scale"] for group in self.optimizer.param_groups]
        self.replica = distributed.replicated(self.model)  # anew: it looks once at what is trained

    def _gradients_of_all(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Of several passes of a step the ranks exchange gradients after the last one."""
        return contextlib.nullcontext() if last or ranks.number() == 1 else self.replica.no_sync()

    def _resume(self) -> None:
        """Starts at the saved step, or at the first one."""
        path = self.run.work / "last.pth"
        state = checkpoints.load(path, self.run.device) if path.exists() else None
        ranks.wait()  # before the first one may discard it
        if state and state["signature"] != self.run.signature:
            # a state of another recipe or of other input is of no use to this run: its result would be a mixture
            print(f"{path}: of another recipe or other input, discarded", flush=True)
            state = None
            if ranks.is_first():
                path.unlink()
        self.step = state["step"] if state else 0
        self._start_phase()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.sums = state["sums"]
        self.average, self.averaged = state["average"], state["averaged"]
        self.log.resume(state["rows"], self.step)

    def _update_average(self) -> None:
        current = {name: value.detach() for name, value in self.model.named_parameters()}
        if self.average is None:
            self.average = {name: value.clone() for name, value in current.items()}
        else:
            for name, mean in self.average.items():
                mean.lerp_(current[name], 1 / (self.averaged + 1))
        self.averaged += 1

    def _means(self) -> dict[str, float]:
        passes = (((self.step - 1) % self.recipe.steps_per_epoch) + 1) * self.recipe.accumulate
        return means(self.sums, passes)

    def _check_finite(self) -> None:
        found = self._means() if self.sums else {}
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        # one bad gradient ruins the weights while the loss that was computed before it still looks well
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            bad.append("a weight")
        if bad:
            raise InputError(
                f"{self.run.work}: {', '.join(bad)} is not finite before step {self.step}: lower the learning rate or set "
                "clip_norm in the recipe; the last good state is kept"
            )


def add_losses(sums: dict[str, Tensor], losses: Mapping[str, Tensor]) -> Tensor:
    """Adds a pass's losses, and their total under ``loss``, to running sums (float64, on the device); returns the total."""
    total = torch.stack(list(losses.values())).sum()
    for name, value in {**losses, "loss": total}.items():
        value = value.detach().double()
        sums[name] = sums[name] + value if name in sums else value
    return total


def means(sums: Mapping[str, Tensor], passes: int) -> dict[str, float]:
    """Over the passes, and over the ranks."""
    values = ranks.total(torch.stack(list(sums.values()))) / ranks.number()
    return {name: float(value) / passes for name, value in zip(sums, values, strict=True)}
