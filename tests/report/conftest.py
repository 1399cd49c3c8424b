"""A small study on disk: one task with images, rows of three initialisations, cells with logs, the comparison."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.text import Text

from detpretrain import volumes
from detpretrain.comparison.compare import compare
from detpretrain.comparison.rows import Row, read_rows
from detpretrain.evaluation import matches
from detpretrain.evaluation.cases import Case
from detpretrain.geometry import Geometry
from detpretrain.report.cell_pages import CellRecord

SPACING = (3.0, 1.5, 1.0)
SHAPE = (12, 30, 40)
CASES = [f"case_{i}" for i in range(6)]


def boxes_of(case: str) -> np.ndarray:
    """Case i holds i mod 4 objects."""
    n = int(case[-1]) % 4
    starts = np.stack([np.arange(n) * 3.0, np.full(n, 8.0), 10.0 * np.arange(n) + 2], axis=1)
    return np.concatenate([starts, starts + np.array([3.0, 6.0, 7.0])], axis=1)


def detected(case: str, found: float, generator: np.random.Generator) -> Case:
    truths = boxes_of(case)
    hit = np.flatnonzero(generator.random(len(truths)) < found)
    false = np.array([[4.0, 20, 20, 7, 27, 30], [4.0, 21, 21, 7, 28, 31]])
    scores = np.concatenate([generator.uniform(0.5, 0.9, len(hit)), [0.6, 0.1]])
    return Case(
        image_id=case,
        gt_boxes=truths,
        gt_labels=np.zeros(len(truths), int),
        gt_ignore=np.zeros(len(truths), int),
        pred_boxes=np.concatenate([truths[hit] + generator.normal(0, 0.3, (len(hit), 6)), false]),
        pred_labels=np.zeros(len(hit) + 2, int),
        pred_scores=scores,
    )


@dataclass(frozen=True)
class Study:
    root: Path
    row_files: list[Path]
    cells: list[CellRecord]
    tasks: dict[str, Path]

    @property
    def logs(self) -> list[Path]:
        return [cell.folder / "log.csv" for cell in self.cells]

    @property
    def rows(self) -> list[Row]:
        return read_rows(self.row_files)


def write_task(root: Path, modality: str = "CT") -> Path:
    images = root / "raw_splitted" / "imagesTr"
    images.mkdir(parents=True)
    description = {"name": "nodules", "labels": {"0": "nodule"}, "modalities": {"0": modality}}
    (root / "dataset.json").write_text(json.dumps(description))
    generator = np.random.default_rng(0)
    for case in CASES:
        image = generator.normal(-500, 200, SHAPE).astype(np.float32)
        volumes.write(images / f"{case}_0000.nii.gz", image, Geometry(SHAPE, SPACING))
    return root


def write_log(path: Path, epochs: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    epoch = np.arange(epochs)
    columns = {"epoch": epoch, "train_loss": 2.0 / (1 + epoch), "val_loss": 2.2 / (1 + epoch)}
    pd.DataFrame({**columns, "val_ap": np.where(epoch % 2 == 1, epoch / 10, np.nan)}).to_csv(path, index=False)
    return path


def write_cell(root: Path, table: pd.DataFrame, init: str, fold: int) -> CellRecord:
    """A cell of the row whose ``table`` is given: its own fold's cases."""
    folder = root / "cells" / "nodules" / "retina_unet_resenc" / init / f"fold{fold}-seed0"
    write_log(folder / "log.csv")
    own = table[table["fold"] == fold]
    matches.write(folder / "matches.parquet", own)
    scores = {"cv": matches.metrics(own, 1)}
    (folder / "metrics.json").write_text(json.dumps({"test_sets": scores}))
    about = {"recipe": {"epochs": 6, "note": "<b>"}}
    return CellRecord(
        "nodules", "retina_unet_resenc", init, fold, 0, folder, "fresh", about, {"finetune": {"host": "node"}}
    )


@pytest.fixture
def study(tmp_path) -> Study:
    row_files, written = [], []
    for i, (init, found) in enumerate((("scratch", 0.5), ("mae", 1.0), ("s3d_long_name", 0.7))):
        generator = np.random.default_rng(i)
        cases = [detected(case, found, generator) for case in CASES]
        infos = {case: matches.CaseInfo(case, SPACING, int(case[-1]) % 2) for case in CASES}
        run = matches.Run("study", "nodules", "cv", "retina_unet_resenc", init, 0)
        row_files.append(tmp_path / "rows" / "nodules" / "retina_unet_resenc" / init / "seed0" / "matches.parquet")
        table = matches.build(cases, infos, run)
        matches.write(row_files[-1], table)
        row_files[-1].with_name("metrics.json").write_text(json.dumps({"test_sets": {"cv": {}}}))
        written += [write_cell(tmp_path, table, init, fold) for fold in range(2)]
    compare(row_files, tmp_path / "comparison", {"resamples": 100}, {}, {})
    return Study(tmp_path, row_files, written, {"nodules": write_task(tmp_path / "task")})


CITATION = {"type": "Pretraining Method", "name": "Masked autoencoder", "apa_citations": ["He, K. (2022). MAE & more."]}


def preview_panels(generator: np.random.Generator) -> list[tuple[str, str, np.ndarray]]:
    """One sample's panels of every kind: title, kind, values."""
    image = generator.normal(size=(16, 20))
    return [
        ("target", "grey", image),
        ("reconstruction of the masked middle slice", "grey", 3 * image),
        ("touched by shuffling or by painting", "labels", np.arange(320).reshape(16, 20) // 80),
        ("overlap", "matrix", generator.random((4, 9))),
    ]


def write_pretraining(root: Path, init: str, backbone: str = "resenc", probed: bool = True, rows: int = 2) -> Path:
    """The files of one pre-training as the workflow lays them out -> their folder."""
    folder, generator = root / "pretrained" / init / backbone, np.random.default_rng(0)
    folder.mkdir(parents=True)
    epoch = np.arange(1, 6)
    log = {"epoch": epoch, "step": 10 * epoch, "train_loss": 2.0 / epoch, "val_loss": 2.5 / epoch}
    pd.DataFrame(log).to_csv(folder / "log.csv", index=False)
    score = {"name": "MSE of masked voxels", "value": 0.25, "baseline_name": "neighbour-mean in-fill", "baseline": 0.5}
    undefined = {"name": "Dice", "value": None, "baseline_name": "background", "baseline": None, "ratio": None}
    assessment = {
        "method": "detpretrain.pretraining.mae.MAE",
        "init": init,
        "backbone": backbone,
        "corpora": ["corpus_a", "corpus_b"],
        "scores": [
            {**score, "ratio": 0.5, "higher_is_better": False, "beats_baseline": True},
            {**undefined, "higher_is_better": True, "beats_baseline": None},
        ],
        "seconds_per_step": {"views": 0.05, "step": 0.15},
        "citations": [CITATION],
        "provenance": {"recipe": "r"},
    }
    (folder / "assessment.json").write_text(json.dumps(assessment))
    samples = [preview_panels(generator) for _ in range(rows)]
    titles = [
        [{"title": title, "kind": kind, "axes": ["rows", "columns"]} for title, kind, _ in panels] for panels in samples
    ]
    arrays = {f"r{i}c{j}": np.float32(p[2]) for i, panels in enumerate(samples) for j, p in enumerate(panels)}
    np.savez_compressed(folder / "preview.npz", panels=np.array(json.dumps(titles)), **arrays)
    if probed:
        found = {"pretrained": [0.8, 0.84, 0.82], "random": [0.7, 0.72, 0.71], "intensity": [0.5, 0.5, 0.52]}
        probe = {name: {"balanced_accuracy": values} for name, values in found.items()}
        about = {"dataset": "organs", "classes": ["background", "lung", "heart"], "voxels": {"train": 9, "val": 9}}
        (folder / "probe.json").write_text(json.dumps({**about, **probe, "difference": 0.11, "beats_random": True}))
    return folder


@pytest.fixture
def pretraining(tmp_path):
    """``pretraining(init, ...)`` -> the folder of a finished pre-training."""
    return lambda init, **changes: write_pretraining(tmp_path, init, **changes)


@pytest.fixture
def drawn(monkeypatch):
    """Keeps the figures that a module saves: ``drawn("detpretrain.report.overlays")`` -> a list that fills up."""

    def capture(module: str) -> list:
        figures: list = []
        monkeypatch.setattr(f"{module}.save", lambda figure, path, data=None: figures.append(figure))
        return figures

    return capture


def _texts(figure):
    """What is really drawn: ticks beyond the ends of an axis keep a label that matplotlib leaves out."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    left_out = set()
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        left_out |= {label for tick in outside for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text not in left_out and text.get_visible() and text.get_text().strip():
            yield text.get_text(), text.get_window_extent(renderer)


@pytest.fixture
def assert_readable():
    """No two texts of a figure overlap and none leaves the figure."""

    def check(figure) -> None:
        texts = list(_texts(figure))
        assert texts
        width, height = figure.canvas.get_width_height()
        for name, box in texts:
            assert box.x0 >= -1, f"{name!r} leaves the figure"
            assert box.y0 >= -1, f"{name!r} leaves the figure"
            assert box.x1 <= width + 1, f"{name!r} leaves the figure"
            assert box.y1 <= height + 1, f"{name!r} leaves the figure"
        for (a, box_a), (b, box_b) in itertools.combinations(texts, 2):
            shared = (
                min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0),
                min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0),
            )
            assert min(shared) <= 1, f"{a!r} and {b!r} overlap"

    return check
