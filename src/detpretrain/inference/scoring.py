"""From raw boxes to scored tables: one cell alone, or a row over all its folds. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.evaluation import luna16_submission, matches
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.ensemble import Candidates, PostProcessing, merge
from detpretrain.evaluation.raw_boxes import RawBoxes
from detpretrain.evaluation.sweep import SweepCase, cross_fit, faithful, sweep
from detpretrain.preprocessing.restore import boxes_to_original
from detpretrain.tasks import CROSS_VALIDATION, OFFICIAL, Task


@dataclass(frozen=True)
class Truth:
    """Objects and facts of a task's cases, from the tables of the canonical folder (original index coordinates)."""

    objects: Mapping[str, pd.DataFrame]
    cases: pd.DataFrame

    @classmethod
    def read(cls, task: Path) -> Truth:
        folder = Task.read(task)
        objects = {str(case): lines for case, lines in folder.objects().groupby("case")}
        return cls(objects, folder.case_table().astype({"case": str, "patient": str}).set_index("case"))

    def info(self, case: str, fold: int | None) -> matches.CaseInfo:
        row = self.cases.loc[case]
        return matches.CaseInfo(row["patient"], tuple(row[f"spacing_{axis}"] for axis in "zyx"), fold)

    def test_set(self, case: str) -> str:
        return str(self.cases.loc[case, "test_set"])

    def scored(self, case: str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Case:
        """The truth of a case beside detections in original index coordinates."""
        lines = self.objects.get(case)
        if lines is None:
            lines = pd.DataFrame({name: [] for name in [*matches.SIDES, "class", "ignored", "truth"]})
        return Case(
            image_id=case,
            gt_boxes=lines[matches.SIDES].to_numpy(np.float64).reshape(-1, 6),
            gt_labels=lines["class"].to_numpy(np.int64),
            gt_ignore=lines["ignored"].to_numpy(bool),
            pred_boxes=boxes,
            pred_labels=labels,
            pred_scores=scores,
            gt_ids=lines["truth"].to_numpy(np.int64),
        )


@dataclass(frozen=True)
class FoldBoxes:
    """Raw boxes of one fold's model; ``test``: the cases of the fold's test part, None where it has none."""

    fold: int
    raw: RawBoxes
    test: frozenset[str] | None = None

    @classmethod
    def of(cls, fold: int, raw: RawBoxes, splits: Sequence[Mapping[str, Sequence[str]]]) -> FoldBoxes:
        """``splits``: the folds of splits.json.

        Raises:
            InputError: a case of the fold's test part was not predicted.
        """
        if "test" not in splits[fold]:
            return cls(fold, raw)
        test = frozenset(splits[fold]["test"])
        missing = sorted(test - set(raw.candidates))
        if missing:
            raise InputError(f"fold {fold}: no boxes of case {missing[0]} of its test part: predict the fold again")
        return cls(fold, raw, test)

    def held_out(self, truth: Truth) -> list[str]:
        """The cases that the fold is scored on: its test part, else its validation part."""
        return [case for case in self._unseen(truth) if self.test is None or case in self.test]

    def selecting(self, truth: Truth) -> list[str]:
        """The cases whose boxes choose post-processing: the fold's validation part."""
        return [case for case in self._unseen(truth) if self.test is None or case not in self.test]

    def _unseen(self, truth: Truth) -> list[str]:
        return [case for case in self.raw.candidates if truth.test_set(case) == CROSS_VALIDATION]


def detect(raw: Sequence[RawBoxes], case: str, post: PostProcessing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one case in original index coordinates, from one model or several (an ensemble).

    Models whose boxes are ``final`` have their own post-processing behind them: ``post`` only says how several are put together.
    """
    if raw[0].final:
        return _together([one.candidates[case] for one in raw], post)
    properties = raw[0].properties[case]
    parts, models = [], 0
    for one in raw:
        found = one.candidates[case]
        parts.append((found.boxes, found.scores, found.labels, found.weights, found.model + models))
        models += one.models
    together = Candidates(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    boxes, scores, labels = merge(together, models, tuple(properties["shape"]), post)
    return boxes_to_original(boxes, properties), scores, labels


def _together(found: Sequence[Candidates], post: PostProcessing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Final detections as they are, best first; those of several models by weighted box clustering."""
    boxes = np.concatenate([one.boxes for one in found]).astype(np.float64)
    scores = np.concatenate([one.scores for one in found]).astype(np.float64)
    labels = np.concatenate([one.labels for one in found])
    if len(found) > 1:
        return box_ops.weighted_box_clustering(
            boxes, scores, labels, np.ones(len(scores)), post.ensemble_iou, len(found)
        )
    best = np.argsort(-scores, kind="stable")
    return boxes[best], scores[best], labels[best]


def score_cell(fold: FoldBoxes, truth: Truth, run: matches.Run) -> pd.DataFrame:
    """``matches`` of one cell with the default post-processing: its held-out cases and the test sets."""
    tables = []
    for test_set, cases in _by_test_set([fold], truth).items():
        scored = [truth.scored(case, *detect([fold.raw], case, PostProcessing())) for case in cases]
        infos = {case: truth.info(case, fold.fold) for case in cases}
        tables.append(_table(scored, infos, run, test_set))
    return pd.concat(tables, ignore_index=True)


def consolidate(
    folds: Sequence[FoldBoxes], truth: Truth, run: matches.Run, faithful_sweep: bool = False
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row over all its folds: ``matches`` and what the sweep chose.

    Held-out cases are pooled, each predicted once by the model that did not see it, with the post-processing that is best on
    the OTHER folds; a single fold (an official split) uses its own validation part, and nnDetection's optimistic sweep over
    all held-out cases is ``faithful_sweep``. Folds with a test part pool their test parts, each with the post-processing that
    is best on its own validation part (``faithful_sweep``: on all validation parts). Test sets are predicted by all fold models
    together, with the post-processing that is best on all cases that choose any. Where an engine has done all that by itself
    (``final`` boxes) nothing is chosen, and its own sweep is a ``faithful_sweep``.

    Raises:
        InputError: a case is held out in two folds.
    """
    held = [(fold, case) for fold in folds for case in fold.held_out(truth)]
    _check_once([case for _, case in held])
    final = folds[0].raw.final
    chosen, over_all = ({}, PostProcessing()) if final else _choose(folds, truth, faithful_sweep)
    scored = [truth.scored(case, *detect([fold.raw], case, chosen.get(fold.fold, over_all))) for fold, case in held]
    infos = {case: truth.info(case, fold.fold) for fold, case in held}
    tables = [_table(scored, infos, run, CROSS_VALIDATION)]
    for test_set, cases in _by_test_set(folds, truth).items():
        if test_set != CROSS_VALIDATION:
            together = [truth.scored(case, *detect([fold.raw for fold in folds], case, over_all)) for case in cases]
            tables.append(_table(together, {case: truth.info(case, None) for case in cases}, run, test_set))
    post = {
        "faithful_sweep": faithful_sweep or final,
        "folds": {str(fold): asdict(value) for fold, value in sorted(chosen.items())},
        "test_sets": asdict(over_all),
    }
    return pd.concat(tables, ignore_index=True), post


def _choose(
    folds: Sequence[FoldBoxes], truth: Truth, faithful_sweep: bool
) -> tuple[dict[int, PostProcessing], PostProcessing]:
    """The post-processing of each fold's held-out cases, and that of the test sets."""
    classes = folds[0].raw.classes
    choosing = [(fold.fold, _sweep_case(fold.raw, case)) for fold in folds for case in fold.selecting(truth)]
    numbers, cases = [number for number, _ in choosing], [case for _, case in choosing]
    over_all = sweep(cases, classes)
    if faithful_sweep:
        return faithful(cases, numbers, classes), over_all
    if len(folds) == 1:
        return {folds[0].fold: over_all}, over_all
    if folds[0].test is None:
        return cross_fit(cases, numbers, classes), over_all
    return {
        fold.fold: sweep([case for number, case in choosing if number == fold.fold], classes) for fold in folds
    }, over_all


def scores_by_test_set(table: pd.DataFrame, classes: int) -> dict[str, Any]:
    """``metrics.json``'s numbers: pooled over the cases of each test set (``cv`` = held-out cases of the folds)."""
    return {str(name): matches.metrics(part, classes) for name, part in table.groupby("test_set", sort=True)}


def luna16_score(table: pd.DataFrame, task: Path, output: Path) -> dict[str, Any] | None:
    """The LUNA16 challenge's score of a row's held-out cases; None for a task without the challenge's files.

    Args:
        table: ``matches`` of the row.
        task: the task folder; the challenge's files are in ``official/``.
        output: folder that receives the submission and the list of its scans.

    Raises:
        InputError: as ``luna16_submission.score``.
    """
    official = task / OFFICIAL
    if not (official / luna16_submission.EXCLUDED).is_file():
        return None
    folder = Task.read(task)
    held_out = table[table["test_set"] == CROSS_VALIDATION]
    lines = folder.case_table().set_index("case")
    series = lines["source_id"].to_dict()
    geometries = {case: volumes.read_geometry(folder.image_paths(case)[0]) for case in held_out["case"].unique()}
    return luna16_submission.score(held_out, series, geometries, official, output)


def _sweep_case(raw: RawBoxes, case: str) -> SweepCase:
    """A held-out case in preprocessed coordinates, where the sweep works."""
    properties = raw.properties[case]
    ignored = set(properties.get("ignored", []))
    return SweepCase(
        image_id=case,
        candidates=raw.candidates[case],
        n_models=raw.models,
        shape=tuple(properties["shape"]),
        gt_boxes=np.asarray(properties["boxes"], dtype=np.float64).reshape(-1, 6),
        gt_labels=np.asarray(properties["classes"], dtype=np.int64),
        gt_ignore=np.array([instance in ignored for instance in properties["ids"]], dtype=bool),
    )


def _by_test_set(folds: Sequence[FoldBoxes], truth: Truth) -> dict[str, list[str]]:
    """Scored cases by test set, in order of name; the test sets are the same for every fold."""
    grouped: dict[str, set[str]] = {}
    for fold in folds:
        choosing = set() if fold.test is None else set(fold.selecting(truth))
        for case in fold.raw.candidates:
            if case not in choosing:
                grouped.setdefault(truth.test_set(case), set()).add(case)
    return {name: sorted(cases) for name, cases in sorted(grouped.items())}


def _table(scored: list[Case], infos: Mapping[str, matches.CaseInfo], run: matches.Run, test_set: str) -> pd.DataFrame:
    return matches.build(scored, infos, matches.Run(**{**asdict(run), "test_set": test_set}))


def _check_once(cases: Sequence[str]) -> None:
    seen: set[str] = set()
    for case in cases:
        if case in seen:
            raise InputError(f"case {case} is held out in two folds: predict the folds of one splits.json")
        seen.add(case)
