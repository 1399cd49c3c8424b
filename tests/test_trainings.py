from itertools import chain
from pathlib import Path

import pytest

from detpretrain import study, trainings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def chosen(tmp_path):
    (tmp_path / "place.yaml").write_text(f"pathvars: {{results: {tmp_path}}}\n")
    return study.load([ROOT / "config" / "smoke.yaml", tmp_path / "place.yaml"], ROOT)


def test_every_cell_and_pretraining_has_places_of_its_own(chosen):
    cells, pretrainings = trainings.of_study(chosen)
    assert [training.name for training in cells] == [cell.path for cell in chosen.cells]
    assert [training.name for training in pretrainings] == ["mae/resenc"]
    every = [*cells, *pretrainings]
    for places in (
        [training.folder for training in every],
        [training.work for training in every],
        [stage.log for training in every for stage in training.stages],
    ):
        assert len(set(places)) == len(places)
        assert all(place.is_relative_to(chosen.folder) for place in places)


def test_work_may_lie_elsewhere_and_nothing_else_follows_it(chosen):
    config = {**chosen.config, "pathvars": {**chosen.config["pathvars"], "scratch": "/scratch"}}
    apart = study.Study(config, chosen.entries, chosen.plans)
    pairs = zip(chain(*trainings.of_study(chosen)), chain(*trainings.of_study(apart)), strict=True)
    for before, after in pairs:
        assert after.work == Path("/scratch/smoke/work") / before.work.relative_to(chosen.folder / "work")
        assert (after.folder, after.stages) == (before.folder, before.stages)


def test_an_engine_leaves_a_state_of_its_own(chosen):
    rows = [{"detector": name, "init": "scratch"} for name in ("retina_unet_resenc", "retina_unet_resenc_nndet")]
    both = study.Study({**chosen.config, "rows": rows}, chosen.entries, chosen.plans)
    states = {cell.detector: trainings.of_cell(both, cell).state for cell in both.cells}
    assert states == {"retina_unet_resenc": "last.pth", "retina_unet_resenc_nndet": "nndet"}


def test_training_is_finished_when_the_last_of_its_files_is_there(chosen):
    training = trainings.of_cell(chosen, chosen.cells[0])
    names = sorted(name for stage in training.stages for name in stage.results)
    assert names == ["log.csv", "matches.parquet", "metrics.json", "model.pth", "raw_boxes.parquet"]
    assert not training.finished()
    training.folder.mkdir(parents=True)
    for name in names:
        assert not training.finished()
        (training.folder / name).touch()
    assert training.finished()
    assert training.results() == set(names)
