"""A training recipe: everything about the optimisation that a configuration entry may set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from detpretrain.build import build
from detpretrain.errors import InputError
from detpretrain.loading.augmentation import Augmentation
from detpretrain.training.schedules import Averaging, Schedule

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
NORMS = (nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An entry of ``recipes.yaml``.

    Attributes:
        optimizer: class and arguments of the optimiser (``lr`` comes from the schedule).
        schedule: class and arguments; ``decay_steps`` defaults to all steps, ``lr`` lives here.
        epochs, steps_per_epoch, validation_steps: an epoch is a fixed number of batches.
        batch_size: samples per optimiser step over all devices; ``accumulate`` splits it into that many forward passes.
        clip_norm: global gradient norm, None = no clipping.
        precision: ``bf16`` (fp16 with a scaler only where a device lacks bf16), ``fp16`` or ``fp32``.
        decay_norms: weight decay on norm parameters too (nnssl: yes, nnDetection: no).
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
        if recipe.averaging and not 0 <= recipe.averaging["start_epoch"] < recipe.epochs:
            raise InputError(
                f"recipe {name}: averaging starts at epoch {recipe.averaging['start_epoch']} of {recipe.epochs}, from 0: "
                "it would never run"
            )
        return recipe

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def build_schedule(self) -> Schedule:
        entry = {"decay_steps": self.total_steps} | dict(self.schedule)
        return build(entry)

    def build_averaging(self) -> Averaging | None:
        return Averaging(**self.averaging) if self.averaging else None

    def build_augmentation(self) -> Augmentation:
        return Augmentation(**self.augmentation)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Two groups when norms are not decayed; a parameter that several modules share is in one group once."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [{"params": trainable}]
        if not self.decay_norms:
            norms = {
                id(p)
                for module in model.modules()
                if isinstance(module, NORMS)
                for p in module.parameters(recurse=False)
            }
            groups = [
                {"params": [p for p in trainable if id(p) not in norms]},
                {"params": [p for p in trainable if id(p) in norms], "weight_decay": 0.0},
            ]
        return build({**self.optimizer, "lr": self.build_schedule()(0, self.steps_per_epoch)}, params=groups)


def _check_numbers(name: str, value: Any, place: str = "") -> None:
    """YAML reads 1e-3 as text, which would fail far from here."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers(name, item, f"{place}{key} ")
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return
        raise InputError(f"recipe {name}: {place}{value!r} is text: write {number!r}, without quotes and with a point")
