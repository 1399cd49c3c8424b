import pytest
from study_trees import OLD, ROOT, finish_cell, smoke_study
from typer.testing import CliRunner

from detpretrain.cli import app
from detpretrain.errors import InputError
from detpretrain.study_report import require_fresh


@pytest.fixture
def smoke(tmp_path):
    chosen, file = smoke_study(tmp_path)
    for cell in chosen.cells:
        finish_cell(chosen, cell)
    return chosen, file


def test_fresh_study_may_be_reported_strictly(smoke):
    require_fresh(smoke[0])


@pytest.mark.parametrize("stage", ["finetune", "predict", "evaluate", "pretrain"])
@pytest.mark.parametrize(("key", "state"), [("source", "source changed"), ("recipe", "recipe changed")])
def test_one_stale_cell_is_enough_to_refuse(smoke, stage, key, state):
    chosen, _ = smoke
    cell = next(cell for cell in chosen.cells if cell.init == "mae")
    finish_cell(chosen, cell, **{stage: {key: "old"}})
    with pytest.raises(InputError, match=rf"1 of 6 cells are not fresh: {cell.path} \({state}\): see"):
        require_fresh(chosen)


def test_the_first_of_many_are_named(smoke):
    chosen, _ = smoke
    for cell in chosen.cells[:4]:
        (chosen.folder / "cells" / cell.path / "metrics.json").unlink()
    finish_cell(chosen, chosen.cells[4], finetune=OLD)
    named = ", ".join(f"{cell.path} (missing)" for cell in chosen.cells[:3])
    with pytest.raises(InputError) as error:
        require_fresh(chosen)
    assert f"5 of 6 cells are not fresh: {named} and 2 more: see" in str(error.value)


def test_strict_report_refuses_in_one_line_and_writes_nothing(smoke, tmp_path, monkeypatch):
    chosen, file = smoke
    finish_cell(chosen, chosen.cells[0], finetune=OLD)
    monkeypatch.chdir(ROOT)
    study = ["--config", "config/smoke.yaml", "--config", str(file)]
    result = CliRunner().invoke(app, ["report", "--strict", "-o", str(tmp_path / "out"), *study])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: study smoke: 1 of 6 cells are not fresh: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    part = ["--only", f"inits={chosen.cells[-1].init}"]  # the stale one is not in it
    result = CliRunner().invoke(app, ["report", "--strict", "-o", str(tmp_path / "out"), *study, *part])
    assert "no row of the study is whole yet" in result.stderr
