import time

import pytest
from rich.console import Console
from study_trees import ROOT, hold, smoke_study
from typer.testing import CliRunner

from detpretrain import trainings, watch
from detpretrain.attempts import Progress, Run
from detpretrain.cli import app
from detpretrain.files import write_json, write_text

NOON = 1.8e9


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    chosen, file = smoke_study(tmp_path)
    monkeypatch.chdir(ROOT)
    return chosen, ("--config", "config/smoke.yaml", "--config", str(file))


def run(progress=None, since=NOON - 60):
    return Run("node7", 4, None, since, 1.0, progress)


def test_columns_of_a_running_training():
    told = Progress(step=100, total=700, loss=1.23456, ap=0.25, speed=2.0, time=NOON - 5)
    clock = time.strftime("%H:%M", time.localtime(NOON - 60))
    expected = ("a cell", "100/700", "1.235", "0.250", "2", "5 min", "node7", clock)
    assert watch.line("a cell", run(told), NOON) == expected


def test_what_is_not_known_yet_is_a_dash():
    assert watch.line("x", run(since=None), NOON) == ("x", "-", "-", "-", "-", "-", "node7", "-")
    told = Progress(step=20, total=700, loss=None, ap=None, speed=None, time=NOON)
    assert watch.line("x", run(told), NOON)[1:6] == ("20/700", "-", "-", "-", "-")


def test_time_left_counts_from_now_and_is_never_negative():
    told = Progress(step=100, total=200, loss=1.0, ap=0.0, speed=1.0, time=NOON - 40)
    assert watch.line("x", run(told), NOON)[5] == "60 s"
    assert watch.line("x", run(told), NOON + 500)[5] == "0 s"


def test_a_start_on_another_day_is_told_with_its_day():
    clock = watch.line("x", run(since=NOON - 2 * 86400), NOON)[-1]
    assert clock == time.strftime("%m-%d %H:%M", time.localtime(NOON - 2 * 86400))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3599, "60 min"), (11100, "3 h 05 min"), (187200, "2 d 4 h")],
)
def test_durations_are_readable(seconds, expected):
    assert watch.duration(seconds) == expected


def test_only_what_runs_is_in_the_table(smoke):
    chosen, _ = smoke
    cells, (pretraining,) = trainings.of_study(chosen)
    hold(cells[1], host="node[7]")
    write_json(cells[1].work / "progress.json", {"step": 20, "total": 90, "means": {"loss": 1.5}, "time": time.time()})
    hold(pretraining)
    write_text(cells[2].stages[0].log, "error: failed\n")
    console = Console(width=200, record=True)
    console.print(watch.table(chosen))
    lines = [line.split() for line in console.export_text().splitlines() if line.strip()]
    names = [*cells[1].name.split("/"), "20/90", "1.5", "-", "-", "-", "node[7]", "-"]
    assert lines[2] == names
    assert lines[3][:4] == ["pre-training", "mae", "resenc", "-"]
    assert " ".join(lines[4]) == "study smoke: 2 running; 0 of 6 cells finished"
    assert len(lines) == 5


def test_once_prints_one_table(smoke):
    result = CliRunner().invoke(app, ["watch", "--once", *smoke[1]])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("0 running; 0 of 6 cells finished") == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_it_is_drawn_again_until_control_c_which_is_no_error(smoke, monkeypatch, terminal):
    chosen, _ = smoke
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt
        hold(trainings.of_cell(chosen, chosen.cells[len(waited)]))

    monkeypatch.setattr(watch.time, "sleep", sleep)
    console = Console(width=200, record=True, force_terminal=terminal)
    watch.watch(chosen, console, 7.0)
    assert waited == [7.0] * 3
    text = console.export_text()
    for running in range(3):
        assert f"{running} running;" in text


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_an_interval_that_is_none_is_refused(smoke, value):
    assert CliRunner().invoke(app, ["watch", "--interval", value, *smoke[1]]).exit_code == 2
