"""What every entry of config/ with an ``engine`` must do, read from the files: a new one is tested without a line here."""

from pathlib import Path

import pytest

from detpretrain import engine_entries, leaves, status, study
from detpretrain.engines import nndet_train
from detpretrain.files import read_yaml, write_json

CONFIG = Path(__file__).resolve().parents[2] / "config"
ENTRIES = {kind: read_yaml(CONFIG / f"{kind}.yaml") for kind in study.KINDS}
SPECS = {path.stem: read_yaml(path) for path in sorted((CONFIG / "plans").glob("*.yaml"))}
DETECTORS = {name: entry for name, entry in ENTRIES["detectors"].items() if "engine" in entry}
SIZED = [(name, size) for name, entry in DETECTORS.items() for size in entry["sizes"]]
every_entry = pytest.mark.parametrize(("name", "size"), SIZED)


def inits_of(name):
    return ["scratch", "mae"] if "transfer" in DETECTORS[name] else ["scratch"]


@pytest.fixture
def study_of(tmp_path):
    """``study_of(name, size, init)``: a study with this row alone."""

    def load(name, size, init="scratch"):
        config = {"study": "s", "size": size, "datasets": ["smoke_nodules"], "corpus": "smoke_corpus"}
        write_json(tmp_path / "s.yaml", {**config, "rows": [{"detector": name, "init": init}]})
        return study.load([tmp_path / "s.yaml"], CONFIG.parent)

    return load


def test_there_are_some():
    assert {name for name, _ in SIZED} >= {"retina_unet_nndet", "retina_unet_resenc_nndet"}


@every_entry
def test_entries_fit_their_engine_and_their_plan(name, size, study_of):
    entry = study_of(name, size).entry("detectors", name)
    engine_entries.check_detector(name, entry)
    engine_entries.check_plan_of(name, entry, SPECS[entry["plan"]])
    assert entry["backbone"] in ENTRIES["backbones"]


@every_entry
def test_studies_with_them_assemble_and_say_what_defines_a_result(name, size, study_of):
    for init in inits_of(name):
        chosen = study_of(name, size, init)
        assert [pair for pair, _ in chosen.pretrainings] == ([] if init == "scratch" else [init])
        cell = chosen.cells[0]
        stages = status.expected(chosen, cell)
        assert stages["finetune"][1] == nndet_train.SOURCES
        other = leaves.finetune(chosen, name, init, cell.fold + 1, cell.seed)
        assert leaves.recipe("finetune", other) != stages["finetune"][0]


@pytest.mark.parametrize(
    ("name", "size", "pretrained"),
    [(name, size, init != "scratch") for name, size in SIZED for init in inits_of(name)],
)
def test_commands_name_the_entry_s_configuration(name, size, pretrained, tmp_path, study_of):
    entry = study_of(name, size).entry("detectors", name)
    plan = {"dataset": "d", "planner": SPECS[entry["plan"]]["planner"]}
    checkpoint = tmp_path / "checkpoint.pth" if pretrained else None
    cell = nndet_train.NnDetCell(
        name="d/n/i/fold1-seed0",
        detector=entry,
        init="i",
        fold=1,
        seed=0,
        checkpoint=checkpoint,
        pretrained=None,
        signature="",
    )
    words = nndet_train.training_command(cell, plan, tmp_path, tmp_path / "fold1")
    assert words[:5] == ["nndet_train", "Task100_d", entry["config"], "1", "-o"]
    module = entry["transfer" if pretrained else "module"]
    assert words[5:8] == [f"module={module}", f"planner={plan['planner']}", "exp.tag=_i"]
    assert ("--transfer_learning" in words) == pretrained
    assert set(entry.get("overrides", [])) <= set(words)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if "engine" in spec])
def test_plans_fit_their_engine(name):
    engine_entries.check_plan(name, SPECS[name])
    assert any(entry["plan"] == name for entry in DETECTORS.values())
