import pytest

from detpretrain.doctor import hours
from detpretrain.files import write_json

STEPS = 2 * 6  # of the smoke recipes


def finish(chosen, cell, seconds, device="cpu"):
    record = {"provenance": {"finetune": {"seconds": seconds, "device": device}}}
    write_json(chosen.folder / "cells" / cell.path / "metrics.json", record)


def given(fine_tuning, pretraining=None):
    speeds = {"retina_unet_resenc": fine_tuning, "mae": pretraining}
    return {"steps_per_second": {name: speed for name, speed in speeds.items() if speed is not None}}


def test_without_a_measurement_nothing_is_invented(assemble):
    cells, pretraining = hours.work(assemble())
    assert (cells.planned, cells.done, cells.steps, cells.speed.value, cells.hours) == (6, 0, STEPS, None, None)
    assert (pretraining.planned, pretraining.steps, pretraining.hours) == (1, STEPS, None)
    lines = hours.table([cells, pretraining])
    assert lines[0][4:] == ("unknown", "unknown", "unknown: runtime.steps_per_second: {retina_unet_resenc: ...}")
    assert lines[-1] == ("all", "7", "0", "", "", "unknown", "")


def test_given_speeds(assemble):
    cells, pretraining = hours.work(assemble(runtime=given(0.5, 0.25)))
    assert cells.hours == pytest.approx(6 * STEPS / 0.5 / 3600)
    assert pretraining.hours == pytest.approx(STEPS / 0.25 / 3600)
    assert hours.work(assemble(runtime=given(0.5)))[1].hours is None


def test_finished_cells_tell_the_speed_and_are_not_counted_again(assemble):
    chosen = assemble(runtime=given(99.0))
    for cell, seconds in zip(chosen.cells, (7200.0, 3600.0, 1.0), strict=False):  # the last was resumed
        finish(chosen, cell, seconds, "cuda:0")
    cells, _ = hours.work(chosen)
    assert (cells.done, cells.speed.source) == (3, "3 finished on cuda:0")
    assert cells.hours == pytest.approx(3 * 1.0)  # an hour each for the three that are left
    finish(chosen, chosen.cells[3], 7200.0)
    cells, _ = hours.work(chosen)
    assert cells.speed.source == "4 finished on cpu, cuda:0"
    assert cells.hours == pytest.approx(2 * 2.0)  # of 1 s, 1 h, 2 h, 2 h


def test_what_is_done_costs_nothing(assemble):
    chosen = assemble()
    for cell in chosen.cells:
        finish(chosen, cell, 36.0)
    checkpoint = chosen.folder / "pretrained" / "mae" / "resenc" / "checkpoint.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    found = hours.work(chosen)
    assert [one.hours for one in found] == [0.0, 0.0]
    assert hours.table(found)[-1][:3] == ("all", "7", "7")
    assert hours.table(found)[-1][5] == "0.0"


def test_sum_of_known_and_unknown_is_a_lower_bound(assemble):
    found = hours.work(assemble(runtime=given(0.01)))
    assert hours.table(found)[-1][5] == f"at least {6 * STEPS / 0.01 / 3600:.1f}"


def test_an_engine_s_hours_are_those_of_its_finished_cells(assemble):
    chosen = assemble(rows=[{"detector": "retina_unet_resenc_nndet", "init": "scratch"}])
    (work,) = hours.work(chosen)
    assert (work.planned, work.steps, work.speed.value, work.hours) == (3, None, None, None)
    assert hours.table([work])[0][3:] == ("unknown", "unknown", "unknown", "unknown until one is finished")
    finish(chosen, chosen.cells[0], 7200.0, "cuda")
    (work,) = hours.work(chosen)
    assert work.hours == pytest.approx(2 * 2.0)
    assert hours.table([work])[0][3:] == ("unknown", "unknown", "4.0", "1 finished on cuda")


def test_cells_without_seconds_tell_nothing(assemble):
    chosen = assemble()
    write_json(chosen.folder / "cells" / chosen.cells[0].path / "metrics.json", {"provenance": {}})
    cells, _ = hours.work(chosen)
    assert (cells.done, cells.speed.value) == (1, None)
