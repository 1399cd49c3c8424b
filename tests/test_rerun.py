import os
import sys

import pytest
from study_trees import OLD, ROOT, finish_cell, finish_pretraining, hold, smoke_study
from typer.testing import CliRunner

from detpretrain import cli_study, rerun, trainings
from detpretrain.cli import app

DETECTOR = "smoke_nodules/retina_unet_resenc"


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """The study with every cell and its pre-training finished and fresh, and the arguments that name it."""
    chosen, file = smoke_study(tmp_path)
    for cell in chosen.cells:
        finish_cell(chosen, cell)
    finish_pretraining(chosen, "mae", "resenc")
    monkeypatch.chdir(ROOT)
    return chosen, ("--config", "config/smoke.yaml", "--config", str(file))


def of(chosen, init, fold=0):
    return next(cell for cell in chosen.cells if (cell.init, cell.fold) == (init, fold))


def ordered(chosen):
    """(cell, stage, name of the forced file) of every order; nothing waits."""
    found, waiting = rerun.orders(chosen)
    assert waiting == []
    return [(order.cell, order.stage, order.forced.name) for order in found]


def test_fresh_cells_are_left_alone(smoke):
    assert ordered(smoke[0]) == []


@pytest.mark.parametrize(
    ("stale", "stage", "forced"),
    [
        (("finetune", "predict", "evaluate"), "finetune", "log.csv"),
        (("predict", "evaluate"), "predict", "raw_boxes.parquet"),
        (("evaluate",), "evaluate", "matches.parquet"),
        (("finetune",), "finetune", "log.csv"),
    ],
)
def test_the_outermost_stale_stage_is_forced(smoke, stale, stage, forced):
    chosen, _ = smoke
    cell = of(chosen, "mae", 1)
    finish_cell(chosen, cell, **dict.fromkeys(stale, OLD))
    ((order,), _) = rerun.orders(chosen)
    folder = chosen.folder / "cells" / cell.path
    assert (order.cell, order.stage, order.target) == (cell.path, stage, folder / "metrics.json")
    assert order.forced == folder / forced


def test_cells_of_another_recipe_and_without_results_are_snakemake_s_own_business(smoke):
    chosen, _ = smoke
    finish_cell(chosen, of(chosen, "mae"), finetune=OLD, evaluate={"recipe": "old"})
    (chosen.folder / "cells" / of(chosen, "scratch").path / "metrics.json").unlink()
    assert ordered(chosen) == []


def test_stale_pretraining_is_made_once_for_all_its_cells(smoke):
    chosen, _ = smoke
    finish_pretraining(chosen, "mae", "resenc", **OLD)
    for fold in (0, 1):
        finish_cell(chosen, of(chosen, "mae", fold), pretrain=OLD, evaluate=OLD)
    assert ordered(chosen) == [(of(chosen, "mae", fold).path, "pretrain", "assessment.json") for fold in (0, 1)]
    found, _ = rerun.orders(chosen)
    assert {order.forced.parent for order in found} == {chosen.folder / "pretrained" / "mae" / "resenc"}


def test_pretraining_that_was_made_again_already_is_not_made_a_third_time(smoke):
    chosen, _ = smoke
    finish_cell(chosen, of(chosen, "mae"), pretrain=OLD)
    assert ordered(chosen) == [(of(chosen, "mae").path, "finetune", "log.csv")]


def test_stages_that_were_made_again_before_a_run_stopped_are_kept(smoke):
    chosen, _ = smoke
    cell = of(chosen, "scratch")
    training = finish_cell(chosen, cell, finetune=OLD)
    later = (2e9, 2e9)
    os.utime(training.folder / "model.pth", later)
    assert ordered(chosen)[0][1] == "finetune"  # its log is not there yet: it is written last
    os.utime(training.folder / "log.csv", later)
    assert ordered(chosen)[0][1] == "predict"
    (training.folder / "raw_boxes.parquet").unlink()
    assert ordered(chosen)[0][1] == "predict"
    (training.folder / "raw_boxes.parquet").touch()
    assert ordered(chosen)[0][1] == "evaluate"


def test_what_is_being_trained_waits(smoke):
    chosen, _ = smoke
    for init in ("mae", "scratch"):
        for fold in (0, 1):
            finish_cell(chosen, of(chosen, init, fold), finetune=OLD)
    hold(trainings.of_cell(chosen, of(chosen, "scratch", 1)))
    hold(trainings.of_pretraining(chosen, "mae", "resenc"))
    found, waiting = rerun.orders(chosen)
    assert [order.cell for order in found] == [of(chosen, "scratch").path]
    assert waiting == [of(chosen, "mae").path, of(chosen, "mae", 1).path, of(chosen, "scratch", 1).path]


@pytest.fixture
def started(monkeypatch):
    """The command lines that took the place of this process."""
    found = []
    monkeypatch.setattr(cli_study.os, "execv", lambda program, command: found.append((program, command)))
    return found


def call(*arguments):
    return CliRunner().invoke(app, ["rerun", *arguments])


def test_snakemake_gets_targets_forced_files_and_the_user_s_arguments(smoke, started):
    chosen, arguments = smoke
    cells = [of(chosen, init) for init in ("mae", "scratch")]
    for cell in cells:
        finish_cell(chosen, cell, evaluate=OLD)
    result = call("--stale", "rows=mae", *arguments, "--", "-c2", "--keep-going")
    assert result.exit_code == 0
    assert result.stdout == f"{cells[0].path}: from evaluate on\n"
    folder = chosen.folder / "cells" / cells[0].path
    ((program, command),) = started
    assert program == sys.executable
    config = [arguments[1], arguments[3]]
    target = [str(folder / "metrics.json")]
    start = [sys.executable, "-m", "snakemake"]
    assert command == [
        *start,
        *target,
        "--configfile",
        *config,
        "--forcerun",
        str(folder / "matches.parquet"),
        "-c2",
        "--keep-going",
    ]
    assert call("--dry-run", "--stale", *arguments).exit_code == 0
    assert started[1][1][-1] == "--dry-run"
    assert str(chosen.folder / "cells" / cells[1].path / "metrics.json") in started[1][1]


def test_nothing_stale_starts_nothing(smoke, started):
    chosen, arguments = smoke
    result = call("--stale", *arguments, "--", "-c2")
    assert (result.exit_code, result.stdout) == (0, "no cell came from other source: nothing to run\n")
    finish_cell(chosen, of(chosen, "mae"), evaluate=OLD)
    hold(trainings.of_cell(chosen, of(chosen, "mae")))
    result = call("--stale", *arguments)
    assert result.stdout.splitlines()[0] == f"{DETECTOR}/mae/fold0-seed0: left out, it is being trained"
    assert started == []


def test_bad_input_is_one_line(smoke, started):
    for arguments, told in (
        ((), "rerun: nothing is named: give --stale"),
        (("rows=mae", "--", "--stale"), "rerun: nothing is named: give --stale"),
        (("--stale", "rows=mea"), "only=rows=mea: study smoke has no 'mea' in rows: did you mean 'mae'?"),
        (("--stale", "mae"), "only=mae: 'mae' is no condition"),
    ):
        result = call(*smoke[1], *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {told}")
        assert result.stderr.count("\n") == 1
    assert started == []


def test_command_line_that_is_too_long_is_one_line(smoke, monkeypatch):
    def refuse(program, command):
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(cli_study.os, "execv", refuse)
    chosen, arguments = smoke
    finish_cell(chosen, of(chosen, "mae"), evaluate=OLD)
    result = call("--stale", *arguments)
    assert result.exit_code == 1
    told = "snakemake cannot be started (Argument list too long): name fewer cells, --stale FILTER"
    assert result.stderr == f"error: {told}\n"
