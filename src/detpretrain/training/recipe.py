"""A training recipe: everything about the optimisation that a configuration entry may set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from detpretrain.build import build
from detpretrain.errors import InputError
from detpretrain.loading.augmentation import Augmentation
from detpretrain.training.parameter_groups import parameter_groups
from detpretrain.training.phases import Phase, build_phases
from detpretrain.training.precision import PRECISIONS
from detpretrain.training.schedules import Averaging


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An entry of ``recipes.yaml``.

    Attributes:
        optimizer: class and arguments of the optimiser (``lr`` comes from the schedule).
        schedule: class and arguments; ``decay_steps`` defaults to all steps (of a phase), ``lr`` lives here.
        phases: consecutive parts of the epochs, see ``phases``; none = one, in which everything trains.
        epochs, steps_per_epoch, validation_steps: an epoch is a fixed number of batches.
        batch_size: samples per optimiser step over all devices; ``accumulate`` splits it into that many forward passes.
        clip_norm: global gradient norm, None = no clipping.
        precision: ``bf16`` (where a device lacks it, see ``precision``), ``fp16`` or ``fp32``.
        decay_norms: weight decay on norm parameters too (nnssl: yes, nnDetection: no).
        encoder_rate: factor on the learning rate of the encoder (Deformable DETR's backbone has 0.1).
        layer_decay: factor on the learning rate per layer of the encoder, see ``parameter_groups``.
        averaging: see ``schedules.Averaging``; None = the last weights.
        augmentation: see ``loading.augmentation``.
        object_fraction: part of a batch that is centred on objects.
        threads: torch threads on the CPU; part of the recipe because sums depend on it.
        channels_last: memory layout of the network.
    """

    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    epochs: int
    steps_per_epoch: int
    validation_steps: int
    batch_size: int
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "bf16"
    decay_norms: bool = True
    encoder_rate: float = 1.0
    layer_decay: float = 1.0
    phases: Sequence[Mapping[str, Any]] = ()
    averaging: Mapping[str, Any] | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    object_fraction: float = 0.5
    threads: int = 1
    channels_last: bool = False

    @classmethod
    def from_entry(cls, name: str, entry: Mapping[str, Any]) -> Recipe:
        """Checks the keys and the values that would fail late."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(entry) - known)
        if unknown:
            raise InputError(f"recipe {name}: unknown key {unknown[0]!r}: known are {', '.join(sorted(known))}")
        try:
            recipe = cls(**entry)
        except TypeError as error:
            raise InputError(f"recipe {name}: {error}") from None
        _check_numbers(name, entry)
        for key in ("epochs", "steps_per_epoch", "validation_steps", "batch_size", "accumulate", "threads"):
            if not isinstance(getattr(recipe, key), int) or getattr(recipe, key) < 1:
                raise InputError(f"recipe {name}: {key} {getattr(recipe, key)!r}: use a whole number of at least 1")
        if recipe.clip_norm is not None and not recipe.clip_norm > 0:
            raise InputError(
                f"recipe {name}: clip_norm {recipe.clip_norm!r}: use a positive number, or none to not clip"
            )
        if not recipe.encoder_rate > 0:
            raise InputError(
                f"recipe {name}: encoder_rate {recipe.encoder_rate!r}: use a positive number (phases can freeze the encoder)"
            )
        if not 0 < recipe.layer_decay <= 1:
            raise InputError(f"recipe {name}: layer_decay {recipe.layer_decay!r}: use a number above 0, up to 1")
        if recipe.precision not in PRECISIONS:
            raise InputError(f"recipe {name}: precision {recipe.precision!r}: use one of {', '.join(PRECISIONS)}")
        if recipe.batch_size % recipe.accumulate:
            raise InputError(
                f"recipe {name}: batch_size {recipe.batch_size} is not divisible by accumulate {recipe.accumulate}"
            )
        for key, build_part in (("averaging", recipe.build_averaging), ("augmentation", recipe.build_augmentation)):
            try:
                build_part()
            except TypeError as error:
                raise InputError(f"recipe {name}: {key}: {error}") from None
        try:
            last = recipe.build_phases()[-1]
        except InputError as error:
            raise InputError(f"recipe {name}: {error}") from None
        if recipe.averaging:
            _check_averaging(name, recipe, last)
        return recipe

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def build_phases(self) -> list[Phase]:
        return build_phases(self.phases, self.schedule, self.epochs, self.steps_per_epoch)

    def build_averaging(self) -> Averaging | None:
        return Averaging(**self.averaging) if self.averaging else None

    def build_augmentation(self) -> Augmentation:
        return Augmentation(**self.augmentation)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """An optimiser of what is trainable now; ``scale`` of a group is for who sets its rate before every step."""
        groups = parameter_groups(model, self.decay_norms, self.encoder_rate, self.layer_decay)
        return build({**self.optimizer, "lr": self.build_phases()[0].rate(0, self.steps_per_epoch)}, params=groups)


def _check_averaging(name: str, recipe: Recipe, last: Phase) -> None:
    start = recipe.averaging["start_epoch"]
    if not 0 <= start < recipe.epochs:
        raise InputError(
            f"recipe {name}: averaging starts at epoch {start} of {recipe.epochs}, from 0: it would never run"
        )
    if start * recipe.steps_per_epoch < last.first:
        raise InputError(
            f"recipe {name}: averaging starts at epoch {start}, before the last of the phases does, at epoch "
            f"{last.first // recipe.steps_per_epoch}: it sets the rate itself and would mix the phases' weights"
        )


def _check_numbers(name: str, value: Any, place: str = "") -> None:
    """YAML reads 1e-3 as text, which would fail far from here."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers(name, item, f"{place}{key} ")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_numbers(name, item, place)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return
        raise InputError(f"recipe {name}: {place}{value!r} is text: write {number!r}, without quotes and with a point")
