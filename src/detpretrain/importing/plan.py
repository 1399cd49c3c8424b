"""What an import would bring: every cell and pre-training that is missing here and whole there, checked; nothing is written."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detpretrain import imported, trainings
from detpretrain.attempts import attempts
from detpretrain.errors import InputError
from detpretrain.importing import cell_checks, pretrainings
from detpretrain.importing.cell_checks import Checked
from detpretrain.importing.prepared import Prepared, make_first
from detpretrain.study import Cell, Study
from detpretrain.trainings import Training


@dataclass(frozen=True)
class Item:
    """A folder of results to bring; ``stages``: names of its files; ``inputs``: what it is made from here; ``benchmarks``: of
    runs here that made the same files before.
    """

    training: Training
    source: Path
    stages: Sequence[Sequence[str]]
    mark: Mapping[str, Any]
    inputs: Sequence[Path]
    benchmarks: Sequence[Path]


@dataclass
class Plan:
    """``findings``: of the leakage guard, from and to. ``refused``: name and reason; ``left``: others that stay away, and why.

    ``absent``: cells of which nothing is there. ``notes``: what the user should know.
    """

    pretrainings: list[Item] = field(default_factory=list)
    findings: list[tuple[Path, Path]] = field(default_factory=list)
    cells: list[Item] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: int = 0

    def outputs(self) -> list[Path]:
        """All files that would come into being."""
        items = [*self.pretrainings, *self.cells]
        made = [item.training.folder / name for item in items for names in item.stages for name in names]
        return [*made, *(target for _, target in self.findings)]


def make(study: Study, theirs: Path, config: Sequence[Path], tell: Callable[[str], None]) -> Plan:
    """``theirs``: folder of the other group's study; ``config``: this study's files, for messages; ``tell`` is given the name of
    each that is about to be checked, because that can take long.

    Raises:
        InputError: the folder is no study's, or it is this study's own.
    """
    if not (theirs / "cells").is_dir():
        raise InputError(f"{theirs}: holds no cells/: give the folder of a study, results/STUDY or a copy of it")
    if study.folder.exists() and study.folder.samefile(theirs):
        raise InputError(f"{theirs}: is the folder of this study itself: give the other group's")
    return _Planner(study, theirs, config, tell).plan()


class _Planner:
    def __init__(self, study: Study, theirs: Path, config: Sequence[Path], tell: Callable[[str], None]) -> None:
        self.study, self.theirs, self.config, self.tell = study, theirs, config, tell
        self.made = Plan()
        self.prepared: dict[tuple[str, str], Prepared | str] = {}
        self.blocked: dict[str, int] = {}
        self.origin, self.date = theirs.resolve().name, datetime.date.today().isoformat()
        self.accepted: list[tuple[Cell, Checked]] = []

    def plan(self) -> Plan:
        cells, pretrained = trainings.of_study(self.study)
        runs = [found.run is not None for found in attempts([*pretrained, *cells])]
        for pair, training, runs_now in zip(self.study.pretrainings, pretrained, runs, strict=False):
            self._pretraining(*pair, training, runs_now)
        for cell, training, runs_now in zip(self.study.cells, cells, runs[len(pretrained) :], strict=True):
            self._cell(cell, training, runs_now)
        self.made.refused += [(f"{count} cell{'' if count == 1 else 's'}", why) for why, count in self.blocked.items()]
        for init, backbone in self.study.pretrainings:
            self._note_pretraining(init, backbone)
        for init, dataset in sorted({(cell.init, cell.dataset) for cell, _ in self.accepted}):
            self._leakage(init, dataset)
        foreign = sorted({found.study for _, found in self.accepted if found.study != self.study.name})
        if foreign:
            self.made.notes.append(f"the study is called {', '.join(foreign)} there")
        other = sum(not found.same_bytes for _, found in self.accepted)
        if other:
            self.made.notes.append(
                f"{other} of the cells: cases and objects are those here, but not every image or plan is the same byte for byte"
            )
        return self.made

    def _to_bring(self, name: str, training: Training, source: Path, runs_now: bool) -> bool:
        """Whether it is missing here, whole there and not being trained; else says why, unless that is plain."""
        wanted = frozenset().union(*(stage.results for stage in training.stages))
        here, there = wanted & training.results(), {file for file in wanted if (source / file).is_file()}
        if here == wanted:
            return False
        if runs_now:
            self.made.left.append((name, "it is being trained here"))
        elif here:
            self.made.left.append((name, f"a part of it is here ({min(here)}): remove it, or let Snakemake finish it"))
        elif there and there != wanted:
            self.made.left.append((name, f"not whole in {self.theirs}: lacks {min(wanted - there)}"))
        return not here and not runs_now and there == wanted

    def _mark(self, study: str, stages: Mapping[str, Any], same_bytes: bool | None) -> dict[str, Any]:
        return imported.content(self.origin, study, self.date, dict(stages), same_bytes)

    def _pretraining(self, init: str, backbone: str, training: Training, runs_now: bool) -> None:
        name, source = f"pre-training {training.name}", self.theirs / "pretrained" / init / backbone
        if not self._to_bring(name, training, source, runs_now):
            return
        self.tell(name)
        try:
            stages, names = pretrainings.check(self.study, init, backbone, source)
        except InputError as error:
            self.made.refused.append((name, str(error)))
            return
        mark = self._mark("", stages, None)
        inputs = pretrainings.inputs(self.study, init)
        benchmarks = [training.stages[0].benchmark, pretrainings.probe_benchmark(self.study, init, backbone)]
        self.made.pretrainings.append(Item(training, source, names, mark, inputs, benchmarks))

    def _cell(self, cell: Cell, training: Training, runs_now: bool) -> None:
        source = self.theirs / "cells" / cell.path
        if not source.is_dir() and not training.results():
            self.made.absent += 1
        if not self._to_bring(cell.path, training, source, runs_now):
            return
        try:
            here, checkpoint = self._prepared(cell), self._checkpoint(cell)
        except InputError as error:  # one line for all cells of the data set
            self.blocked[str(error)] = self.blocked.get(str(error), 0) + 1
            return
        self.tell(cell.path)
        try:
            found = cell_checks.check(self.study, cell, source, here)
        except InputError as error:
            self.made.refused.append((cell.path, str(error)))
            return
        self.accepted.append((cell, found))
        mark = self._mark(found.study, found.stages, found.same_bytes)
        names = [sorted(stage.results) for stage in training.stages]
        benchmarks = [stage.benchmark for stage in training.stages]
        self.made.cells.append(Item(training, source, names, mark, [*here.inputs, *checkpoint], benchmarks))

    def _prepared(self, cell: Cell) -> Prepared:
        plan = self.study.entry("detectors", cell.detector)["plan"]
        key = (cell.dataset, plan)
        if key not in self.prepared:
            try:
                self.prepared[key] = Prepared.read(self.study, cell.dataset, plan, self.config)
            except InputError as error:
                self.prepared[key] = str(error)
        found = self.prepared[key]
        if isinstance(found, str):
            raise InputError(found)
        return found

    def _checkpoint(self, cell: Cell) -> list[Path]:
        """The checkpoint that the cell's init starts from; one that is fetched later would be newer than the cell."""
        named = self.study.checkpoint(cell.init)
        if named is None:
            return [self._pretrained(cell) / "checkpoint.pth"] if self.study.needs_pretraining(cell.init) else []
        path = self.study.results / "checkpoints" / f"{cell.init}.pth" if named.startswith("hf://") else Path(named)
        if not path.exists():
            raise InputError(make_first(path, self.config))
        return [path]

    def _pretrained(self, cell: Cell) -> Path:
        return self.study.folder / "pretrained" / cell.init / self.study.entry("detectors", cell.detector)["backbone"]

    def _note_pretraining(self, init: str, backbone: str) -> None:
        """What comes of cells whose pre-training is not here, or is another training than theirs."""
        folder = self.study.folder / "pretrained" / init / backbone
        mine = [found for cell, found in self.accepted if cell.init == init and self._pretrained(cell) == folder]
        brought = [item.source for item in self.made.pretrainings if item.training.folder == folder]
        where = brought[0] if brought else folder
        if not mine:
            return
        if not brought and not trainings.of_pretraining(self.study, init, backbone).finished():
            self.made.notes.append(
                f"pre-training {init}/{backbone} is neither here nor to be had from {self.theirs}: Snakemake will train it, and "
                f"then these {len(mine)} cells again"
            )
            return
        other = sum(not pretrainings.same_training(where / "assessment.json", found.pretrain) for found in mine)
        if other:
            self.made.notes.append(
                f"{other} cells started from another training of {init}/{backbone} than the one here, by the same recipe"
            )

    def _leakage(self, init: str, dataset: str) -> None:
        """Brings the guard's finding where looking for leaks here would make Snakemake prepare a corpus, and so train again."""
        target = pretrainings.leakage_file(self.study.folder, init, dataset)
        if not self.study.needs_pretraining(init) or target.exists():
            return
        absent = pretrainings.unprepared(self.study, init)
        if not absent:
            return
        source, why = pretrainings.leakage_file(self.theirs, init, dataset), "it is not there"
        try:
            if source.is_file():
                pretrainings.check_leakage(self.study, init, dataset, source)
                self.made.findings.append((source, target))
                self.made.notes.append(f"{target}: taken from there, as {absent[0]} is not prepared here")
                return
        except InputError as error:
            why = str(error)
        self.made.notes.append(
            f"{target} is missing ({why}): Snakemake will prepare {absent[0]}, and then train {init} and its cells again"
        )
