"""What a pre-training has learned and what its steps cost: figures beside trivial baselines, pictures, seconds."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detpretrain.files import atomic_path, write_json
from detpretrain.pretraining.contract import Panel, Score
from detpretrain.training.loop import add_losses
from detpretrain.training.precision import autocast
from detpretrain.training.recipe import Recipe
from detpretrain.training.stream import PatchStream

PREVIEW_ROWS = 3
TIMED_STEPS = 7
WARM_UP = 2


def write(
    assessment: Path, preview: Path, method: nn.Module, stream: PatchStream, recipe: Recipe, about: Mapping[str, Any]
) -> None:
    """Writes ``assessment.json`` (``about``, scores, seconds per step) and ``preview.npz`` (pictures of validation views)."""
    device = next(method.parameters()).device
    precision = autocast(recipe.precision, device)
    method.eval()
    sums: dict[str, list[Score]] = {}
    rows: list[list[Panel]] = []
    with torch.no_grad(), precision:
        for views in stream.validation():
            for name, score in method.assess(*views).items():
                sums.setdefault(name, []).append(score)
            if len(rows) < PREVIEW_ROWS:
                rows += method.preview(*views)
    write_json(
        assessment,
        {
            **about,
            "scores": [_summed(name, scores) for name, scores in sums.items()],
            "seconds_per_step": step_seconds(method, stream, precision, device),
        },
    )
    write_preview(preview, rows[:PREVIEW_ROWS])


def write_preview(path: Path, rows: list[list[Panel]]) -> None:
    """``rIcJ``: the values of each panel, float32; ``panels``: their titles, kinds and axes as JSON."""
    arrays = {
        f"r{row}c{column}": panel.values.float().cpu().numpy()
        for row, panels in enumerate(rows)
        for column, panel in enumerate(panels)
    }
    text = json.dumps(
        [[{"title": panel.title, "kind": panel.kind, "axes": panel.axes} for panel in panels] for panels in rows]
    )
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, panels=np.array(text), **arrays)


def step_seconds(
    method: nn.Module, stream: PatchStream, precision: torch.autocast, device: torch.device
) -> dict[str, float]:
    """Median seconds of preparing the views of a batch on the device, and of a forward and backward pass on them.

    Reading from disk is not in: loader processes do it beside the step. The weights stay as they are.
    """
    method.train()
    views_taken, steps_taken = [], []
    for samples in stream.training_samples(TIMED_STEPS):
        views, seconds = _timed(lambda batch=samples: stream.to_batch(batch), device)
        views_taken.append(seconds)
        steps_taken.append(_timed(lambda batch=views: _pass(method, batch, precision), device)[1])
    method.zero_grad(set_to_none=True)
    return {
        "views": round(statistics.median(views_taken[WARM_UP:]), 5),
        "step": round(statistics.median(steps_taken[WARM_UP:]), 5),
    }


def _pass(method: nn.Module, views: tuple[Any, ...], precision: torch.autocast) -> None:
    sums: dict[str, Tensor] = {}
    with precision:
        losses = method(*views)
    add_losses(sums, losses).backward()


def _timed(function: Any, device: torch.device) -> tuple[Any, float]:
    _wait(device)
    started = time.perf_counter()
    result = function()
    _wait(device)
    return result, time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summed(name: str, scores: list[Score]) -> dict[str, Any]:
    """One line of the assessment: sums over the batches, then the quotients."""
    value, baseline = (_quotient([getattr(score, part) for score in scores]) for part in ("method", "baseline"))
    higher = scores[0].higher_is_better
    defined = value is not None and baseline is not None
    return {
        "name": name,
        "value": value,
        "baseline_name": scores[0].baseline_name,
        "baseline": baseline,
        "ratio": value / baseline if defined and baseline else None,
        "higher_is_better": higher,
        "beats_baseline": bool(value > baseline if higher else value < baseline) if defined else None,
    }


def _quotient(parts: list[tuple[Tensor, Tensor]]) -> float | None:
    numerator, denominator = (float(sum(float(part[place]) for part in parts)) for place in (0, 1))
    return numerator / denominator if denominator else None
