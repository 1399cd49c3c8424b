import os
import socket
from pathlib import Path

import pytest
import yaml

from detpretrain import leaves, provenance, status, study, trainings
from detpretrain.files import write_json, write_text
from detpretrain.lock_file import process_start

ROOT = Path(__file__).resolve().parents[1]
SMOKE = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())


@pytest.fixture
def chosen(tmp_path):
    return study.assemble(SMOKE | {"pathvars": {"results": str(tmp_path)}}, ROOT, "x")


@pytest.fixture
def cells(chosen):
    """The scratch and the mae cell of fold 0."""
    found = {cell.init: cell for cell in chosen.cells if cell.fold == 0}
    return found["scratch"], found["mae"]


def recorded(chosen, cell):
    """What the results of the present source and configuration record."""
    stages = {
        stage: {"recipe": recipe, "source": provenance.source_hash(modules), "commit": "c" * 40, "dirty": True}
        for stage, (recipe, modules) in status.expected(chosen, cell).items()
    }
    pretrain = stages.pop("pretrain", None)
    stages["finetune"]["pretrain"] = pretrain
    return stages


def write(chosen, cell, content):
    write_json(chosen.folder / "cells" / cell.path / "metrics.json", {"provenance": content})


def test_cells_without_metrics_are_missing(chosen):
    states = status.cell_states(chosen)
    assert {state.state for state in states} == {"missing"}
    assert len(states) == 6


def test_cells_of_the_present_source_and_recipe_are_fresh(chosen, cells):
    for cell in cells:
        write(chosen, cell, recorded(chosen, cell))
        state = status.cell_state(chosen, cell)
        assert (state.state, state.stages) == ("fresh", {})


@pytest.mark.parametrize("stage", ["finetune", "predict", "evaluate"])
@pytest.mark.parametrize(("key", "expected"), [("source", "source changed"), ("recipe", "recipe changed")])
def test_every_stage_is_looked_at(chosen, cells, stage, key, expected):
    content = recorded(chosen, cells[0])
    content[stage][key] = "0" * 12
    write(chosen, cells[0], content)
    state = status.cell_state(chosen, cells[0])
    assert (state.state, state.stages) == (expected, {stage: expected})


@pytest.mark.parametrize(("key", "expected"), [("source", "source changed"), ("recipe", "recipe changed")])
def test_pretraining_behind_a_cell_is_looked_at(chosen, cells, key, expected):
    content = recorded(chosen, cells[1])
    content["finetune"]["pretrain"][key] = "0" * 12
    write(chosen, cells[1], content)
    assert status.cell_state(chosen, cells[1]).stages == {"pretrain": expected}


def test_changed_recipe_outweighs_changed_source(chosen, cells):
    content = recorded(chosen, cells[0])
    content["finetune"]["source"], content["predict"]["recipe"] = "0", "0"
    write(chosen, cells[0], content)
    assert status.cell_state(chosen, cells[0]).state == "recipe changed"


def test_another_leaf_of_the_method_makes_its_cells_stale_only(chosen, cells):
    for cell in cells:
        write(chosen, cell, recorded(chosen, cell))
    entries = {**chosen.entries, "methods": {"mae": {**chosen.entries["methods"]["mae"], "ratio": 0.5}}}
    other = study.Study(chosen.config, entries, chosen.plans)
    assert [status.cell_state(other, cell).state for cell in cells] == ["fresh", "recipe changed"]


def test_recipes_are_those_that_the_jobs_were_given(chosen, cells):
    expected = status.expected(chosen, cells[1])
    assert expected["predict"][0] == leaves.recipe("predict", leaves.predict(chosen, "retina_unet_resenc"))
    assert expected["pretrain"][0] == leaves.recipe("pretrain", leaves.pretrain(chosen, "mae", "resenc"))
    assert set(expected) - set(status.expected(chosen, cells[0])) == {"pretrain"}


def test_summary_counts_cells_by_source_and_state(chosen, cells):
    write(chosen, cells[0], recorded(chosen, cells[0]))
    lines = status.summary(status.cell_states(chosen))
    assert sum(line["cells"] for line in lines) == 6
    (fresh,) = [line for line in lines if line["state"] == "fresh"]
    assert fresh["cells"] == 1
    assert fresh["initialisation"] == "scratch"
    assert fresh["commit"] == "cccccccccc+changes"
    assert fresh["source"] == recorded(chosen, cells[0])["finetune"]["source"]


def write_pretraining(chosen, recorded, *lacking):
    folder = chosen.folder / "pretrained" / "mae" / "resenc"
    folder.mkdir(parents=True)
    for name in {"checkpoint.pth", "log.csv", "preview.npz"} - set(lacking):
        (folder / name).touch()
    write_json(folder / "assessment.json", {"provenance": recorded})


@pytest.mark.parametrize(
    ("key", "expected"), [("source", "source changed"), ("recipe", "recipe changed"), ("x", "fresh")]
)
def test_pretraining_is_judged_by_what_its_assessment_records(chosen, cells, key, expected):
    write_pretraining(chosen, recorded(chosen, cells[1])["finetune"]["pretrain"] | {key: "0" * 12})
    state, stages = status.pretraining_state(chosen, "mae", "resenc")
    assert (state, stages) == (expected, {} if expected == "fresh" else {"pretrain": expected})


def test_pretraining_without_its_checkpoint_is_missing(chosen, cells):
    assert status.pretraining_state(chosen, "mae", "resenc") == ("missing", {})
    write_pretraining(chosen, recorded(chosen, cells[1])["finetune"]["pretrain"], "checkpoint.pth")
    assert status.pretraining_state(chosen, "mae", "resenc") == ("missing", {})


def hold(work):
    """The lock of a living process: this one."""
    pid = os.getpid()
    holder = {"host": socket.gethostname(), "pid": pid, "started": process_start(pid), "job": None}
    write_json(work / "lock.json", holder)


def now(chosen):
    cells, pretrainings = status.now(chosen, status.cell_states(chosen))
    assert [found.name for found in cells] == [cell.path for cell in chosen.cells]
    return {found.name: found for found in (*cells, *pretrainings)}


def test_what_runs_failed_or_stopped_is_told_of_what_has_no_result(chosen, cells):
    failed = trainings.of_cell(chosen, cells[0])
    write_text(failed.stages[0].log, "error: broken\n")
    hold(trainings.of_cell(chosen, cells[1]).work)
    stopped = trainings.of_pretraining(chosen, "mae", "resenc")
    write_text(stopped.work / "last.pth", "")
    found = now(chosen)
    assert (found[cells[0].path].state, found[cells[0].path].stages) == ("failed", {"finetune": "error: broken"})
    assert found[cells[1].path].state == "running"
    assert found[cells[1].path].run.pid == os.getpid()
    assert found["mae/resenc"].state == "missing"
    assert found["mae/resenc"].stages == {"pretrain": "interrupted, goes on where it stopped"}
    others = [moment for name, moment in found.items() if name not in (cells[0].path, cells[1].path, "mae/resenc")]
    assert {(moment.state, len(moment.stages), moment.run) for moment in others} == {("missing", 0, None)}
    assert {state.state for state in status.cell_states(chosen)} == {"missing"}  # of results alone


def test_finished_cell_keeps_its_state_unless_it_is_trained_again(chosen, cells):
    for cell in cells:
        write(chosen, cell, recorded(chosen, cell) | {"predict": {}})
        training = trainings.of_cell(chosen, cell)
        for name in {name for stage in training.stages for name in stage.results} - {"metrics.json"}:
            (training.folder / name).touch()
        write_text(training.stages[0].log, "error: of an attempt before\n")
    hold(trainings.of_cell(chosen, cells[1]).work)
    found = now(chosen)
    assert [found[cell.path].state for cell in cells] == ["recipe changed", "running"]
    assert {tuple(found[cell.path].stages.items()) for cell in cells} == {(("predict", "recipe changed"),)}
    training = trainings.of_cell(chosen, cells[0])
    (training.folder / "model.pth").unlink()  # as Snakemake does before it trains again
    assert now(chosen)[cells[0].path].state == "failed"
    training.stages[0].log.unlink()
    write_text(training.work / "last.pth", "")  # stopped: the older result is still what there is
    assert now(chosen)[cells[0].path].state == "recipe changed"
