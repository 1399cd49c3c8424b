"""Phases of a training: consecutive epochs, in each of which some parts of the model may be frozen.

Every phase is a training of its own that starts from the last one's weights: a new optimiser, whose schedule counts from the
phase's first step. So nnDetection's two-phase fine-tuning works (branch finetuning, ``TwoPhaseWarmupMixin``), which first trains
the new parts on a frozen backbone, then everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from detpretrain.build import build
from detpretrain.errors import InputError
from detpretrain.models.factory import pretrained_part
from detpretrain.training.schedules import Schedule

KEYS = ("epochs", "freeze", "schedule")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Optimiser steps ``first`` to ``end`` (exclusive).

    Attributes:
        freeze: parts of the model that do not train, as attributes (``encoder``, dots lead inside); of an encoder, what a
            checkpoint fills.
        schedule: learning rate by the step within the phase.
    """

    first: int
    end: int
    freeze: tuple[str, ...]
    schedule: Schedule

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of optimiser step ``step`` of the training."""
        return self.schedule(step - self.first, steps_per_epoch)


def build_phases(
    entries: Sequence[Mapping[str, Any]], schedule: Mapping[str, Any], epochs: int, steps_per_epoch: int
) -> list[Phase]:
    """Phases from a recipe's ``phases``; without any, one over all epochs.

    Args:
        entries: each with ``epochs``, and maybe ``freeze`` and ``schedule``.
        schedule: entry for phases without their own; ``decay_steps`` defaults to the steps of the phase.

    Raises:
        InputError: a key or value is wrong, or the phases do not add up to ``epochs``.
    """
    phases: list[Phase] = []
    for number, entry in enumerate(entries or [{"epochs": epochs}], 1):
        _check(number, entry)
        steps = entry["epochs"] * steps_per_epoch
        built = build({"decay_steps": steps} | dict(entry.get("schedule", schedule)))
        first = phases[-1].end if phases else 0
        phases.append(Phase(first=first, end=first + steps, freeze=tuple(entry.get("freeze", ())), schedule=built))
    total = phases[-1].end // steps_per_epoch
    if total != epochs:
        raise InputError(f"phases: {total} epochs together, but epochs is {epochs}: make them equal")
    return phases


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of 0-based optimiser step ``step``; a finished training is in its last one."""
    return next((phase for phase in phases if step < phase.end), phases[-1])


def frozen_parts(model: nn.Module, phase: Phase) -> list[nn.Module]:
    """The modules that a phase freezes.

    Raises:
        InputError: the model has no part of that name, or no trainable parameter is left.
    """
    parts = []
    for name in phase.freeze:
        try:
            parts.append(pretrained_part(model.get_submodule(name)))  # a pyramid that starts fresh must learn
        except AttributeError:
            known = ", ".join(child for child, _ in model.named_children())
            raise InputError(
                f"phases: freeze {name!r}: {type(model).__name__} has no such part: known are {known}"
            ) from None
    frozen = {id(parameter) for part in parts for parameter in part.parameters()}
    if all(id(parameter) in frozen or not parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"phases: freeze {', '.join(phase.freeze)}: nothing is left to train: leave a part out")
    return parts


def freeze(trainable: Sequence[nn.Parameter], parts: Sequence[nn.Module]) -> None:
    """Of the parameters that can train, exactly those outside ``parts`` do from now on; old gradients are dropped.

    The gradient of a frozen parameter is None, so that neither clipping nor an optimiser sees it.
    """
    frozen = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in trainable:
        parameter.requires_grad_(id(parameter) not in frozen)
        parameter.grad = None


def _check(number: int, entry: Mapping[str, Any]) -> None:
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise InputError(f"phases: unknown key {unknown[0]!r} in phase {number}: known are {', '.join(KEYS)}")
    epochs = entry.get("epochs")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"phases: epochs {epochs!r} of phase {number}: use a whole number of at least 1")
    if isinstance(entry.get("freeze", ()), str):
        raise InputError(f"phases: freeze {entry['freeze']!r} of phase {number}: write a list, [{entry['freeze']}]")
