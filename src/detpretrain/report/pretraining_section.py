"""What the report tells of the pre-trainings: their files read, their tables, and what to cite."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.report.tables import NOT_DEFINED

PANEL_KINDS = ("grey", "labels", "matrix")
CONTENDERS = ("pretrained", "random", "intensity")
_LOG_COLUMNS = ("epoch", "train_loss", "val_loss")
_TRUTH = {True: "yes", False: "no", None: NOT_DEFINED}


@dataclass(frozen=True)
class AssessedScore:
    """A figure of a method beside a trivial baseline's; None where it is not defined (no denominator)."""

    name: str
    value: float | None
    baseline_name: str
    baseline: float | None
    ratio: float | None
    higher_is_better: bool
    beats_baseline: bool | None


@dataclass(frozen=True)
class ProbeResult:
    """``accuracies``: balanced accuracy per repeat of each of ``CONTENDERS``; ``classes``: how many, background included."""

    dataset: str
    classes: int
    accuracies: dict[str, list[float]]
    difference: float
    beats_random: bool


@dataclass(frozen=True)
class PreviewPanel:
    """``values`` [H, W]; ``kind``: one of ``PANEL_KINDS``; ``axes``: what rows and columns of a matrix are."""

    title: str
    kind: str
    values: NDArray[np.float32]
    axes: Sequence[str]


@dataclass(frozen=True)
class Pretraining:
    """One pre-training. ``views_seconds`` and ``pass_seconds``: making a batch's views, forward and backward pass on them."""

    init: str
    backbone: str
    method: str
    corpora: Sequence[str]
    log: pd.DataFrame
    scores: Sequence[AssessedScore]
    views_seconds: float
    pass_seconds: float
    citations: Sequence[Mapping[str, Any]]
    preview: Sequence[Sequence[PreviewPanel]]
    probe: ProbeResult | None

    @property
    def name(self) -> str:
        return f"{self.init} ({self.backbone})"


def read_pretrainings(folders: Iterable[Path]) -> list[Pretraining]:
    """Reads ``assessment.json``, ``log.csv``, ``preview.npz`` and, where there is one, ``probe.json`` of each folder.

    Ordered by init and backbone.

    Raises:
        InputError: a missing or unreadable file, one that lacks something, or the same pre-training twice.
    """
    found: dict[tuple[str, str], Pretraining] = {}
    for folder in map(Path, folders):
        one = _read(folder)
        if (one.init, one.backbone) in found:
            raise InputError(f"{folder}: pre-training {one.name} was given before: give each one once")
        found[one.init, one.backbone] = one
    return [found[key] for key in sorted(found)]


def _read(folder: Path) -> Pretraining:
    path = folder / "assessment.json"
    content = read_json(path)
    probe_path = folder / "probe.json"
    try:
        return Pretraining(
            init=content["init"],
            backbone=content["backbone"],
            method=content["method"],
            corpora=content["corpora"],
            log=_read_log(folder / "log.csv"),
            scores=[AssessedScore(**score) for score in content["scores"]],
            views_seconds=content["seconds_per_step"]["views"],
            pass_seconds=content["seconds_per_step"]["step"],
            citations=content["citations"],
            preview=_read_preview(folder / "preview.npz"),
            probe=_read_probe(probe_path) if probe_path.exists() else None,
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a pre-training's assessment ({error}): run pretrain again") from None


def _read_log(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as csv ({error}): run pretrain again") from None
    missing = [name for name in _LOG_COLUMNS if name not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}: run pretrain again")
    return table


def _read_probe(path: Path) -> ProbeResult:
    content = read_json(path)
    try:
        return ProbeResult(
            dataset=content["dataset"],
            classes=len(content["classes"]),
            accuracies={name: content[name]["balanced_accuracy"] for name in CONTENDERS},
            difference=content["difference"],
            beats_random=content["beats_random"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a probe's result ({error}): run probe again") from None


def _read_preview(path: Path) -> list[list[PreviewPanel]]:
    try:
        with open(path, "rb") as handle, np.load(handle) as arrays:
            rows = [
                [
                    PreviewPanel(panel["title"], panel["kind"], arrays[f"r{row}c{column}"], panel["axes"])
                    for column, panel in enumerate(panels)
                ]
                for row, panels in enumerate(json.loads(str(arrays["panels"])))
            ]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a pre-training's preview ({error}): run pretrain again") from None
    for panel in (panel for row in rows for panel in row):
        if panel.kind not in PANEL_KINDS or panel.values.ndim != 2:
            raise InputError(
                f"{path}: panel {panel.title!r} is {panel.kind} {panel.values.shape}: the kinds are "
                f"{', '.join(PANEL_KINDS)}, the shape [H, W]: correct the method's preview"
            )
    return rows


def assessment_table(pretrainings: Sequence[Pretraining]) -> pd.DataFrame:
    """One line per score, as text: the method's figure, the baseline's, their ratio, and who is better."""
    return pd.DataFrame(
        {
            "init": one.init,
            "backbone": one.backbone,
            "corpus": ", ".join(one.corpora),
            "score": f"{score.name} ({'higher' if score.higher_is_better else 'lower'} is better)",
            "value": _number(score.value),
            "trivial baseline": score.baseline_name,
            "baseline's value": _number(score.baseline),
            "ratio": _number(score.ratio),
            "beats the baseline": _TRUTH[score.beats_baseline],
        }
        for one in pretrainings
        for score in one.scores
    )


def probe_table(pretrainings: Sequence[Pretraining]) -> pd.DataFrame:
    """One line per probed pre-training, as text: balanced accuracies as mean and range over the repeats."""
    return pd.DataFrame(
        {
            "init": one.init,
            "backbone": one.backbone,
            "data set": one.probe.dataset,
            "classes": str(one.probe.classes),
            "pre-trained": _mean_and_range(one.probe.accuracies["pretrained"]),
            "random weights": _mean_and_range(one.probe.accuracies["random"]),
            "intensity alone": _mean_and_range(one.probe.accuracies["intensity"]),
            "pre-trained − random": f"{one.probe.difference:+.3f}".replace("-", "−"),
            "better in every repeat": _TRUTH[one.probe.beats_random],
            "learned from these labels": _TRUTH[one.probe.dataset in one.corpora],
        }
        for one in pretrainings
        if one.probe is not None
    )


def time_table(pretrainings: Sequence[Pretraining]) -> pd.DataFrame:
    """One line per pre-training, as text: milliseconds of a training step and the share of it that makes the views."""
    return pd.DataFrame(
        {
            "init": one.init,
            "backbone": one.backbone,
            "method": one.method.rpartition(".")[2],
            "views [ms]": f"{1000 * one.views_seconds:.1f}",
            "forward and backward pass [ms]": f"{1000 * one.pass_seconds:.1f}",
            "share of the views": f"{100 * one.views_seconds / (one.views_seconds + one.pass_seconds):.0f} %",
        }
        for one in pretrainings
    )


@dataclass(frozen=True)
class Reference:
    """A work to cite; ``texts``: its entries in APA style; ``inits``: whose checkpoints ask for it."""

    type: str
    name: str
    texts: tuple[str, ...]
    inits: tuple[str, ...]


def references(citations: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Reference]:
    """Init -> ``citations`` of its checkpoint (``{type, name, apa_citations}``) to each work once, by type and name.

    Raises:
        InputError: an entry without one of the three.
    """
    users: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}
    for init, entries in citations.items():
        for entry in entries:
            texts = entry.get("apa_citations") if isinstance(entry, Mapping) else None
            if not isinstance(texts, list | tuple) or not {"type", "name"} <= set(entry):
                raise InputError(
                    f"{init}: its checkpoint has a citation without type, name and a list of apa_citations: {entry!r}: correct it"
                )
            users.setdefault((str(entry["type"]), str(entry["name"]), tuple(map(str, texts))), set()).add(init)
    return [Reference(*key, tuple(sorted(users[key]))) for key in sorted(users)]


def _number(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:.3g}".replace("-", "−")


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
