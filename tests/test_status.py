from pathlib import Path

import pytest
import yaml

from detpretrain import leaves, provenance, status, study
from detpretrain.files import write_json

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
