import json
import os
import socket
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from detpretrain import provenance, status, study, trainings
from detpretrain.cli import app
from detpretrain.files import write_json, write_text
from detpretrain.lock_file import process_start
from detpretrain.status_table import print_status

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The configuration of this repository beside results of its own; the current directory."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def smoke(repository):
    return study.load([Path("config/smoke.yaml")], repository)


def record(smoke, cell, **changed):
    """``metrics.json`` of a cell as a run of now would write it; ``changed``: fields of a stage's provenance."""
    facts = {
        stage: {"recipe": recipe, "source": provenance.source_hash(modules), **changed.get(stage, {})}
        for stage, (recipe, modules) in status.expected(smoke, cell).items()
    }
    facts["finetune"]["pretrain"] = facts.get("pretrain")
    path = smoke.folder / "cells" / cell.path / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"provenance": facts}))


def test_states_by_row_and_what_is_not_fresh(smoke):
    mae = [cell for cell in smoke.cells if cell.init == "mae"]
    scratch = [cell for cell in smoke.cells if cell.init == "scratch"]
    record(smoke, mae[0])
    record(smoke, mae[1], pretrain={"recipe": "old"}, predict={"source": "old"})
    record(smoke, mae[2], evaluate={"source": "old"})
    record(smoke, scratch[0])
    record(smoke, scratch[1])
    row = smoke.folder / "rows" / smoke.rows[0].path / "metrics.json"
    row.parent.mkdir(parents=True)
    row.write_text("{}")
    console = Console(width=120, record=True)
    print_status(smoke, console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["smoke_nodules", "retina_unet_resenc", "mae", "seed0", "1", "1", "1", "0", "0", "0", "yes"] in lines
    assert ["smoke_nodules", "retina_unet_resenc", "scratch", "seed0", "2", "0", "0", "0", "0", "1", "no"] in lines
    listed = {line[0].rstrip(":"): " ".join(line[1:]) for line in lines if line and line[0].endswith("-seed0:")}
    assert listed == {
        mae[1].path: "predict: source changed; pretrain: recipe changed",
        mae[2].path: "evaluate: source changed",
        scratch[2].path: "missing",
    }
    assert ["pre-training", "mae", "of", "resenc:", "missing"] in lines


def lock(work, **changes):
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid()), "job": "7"}
    write_json(work / "lock.json", holder | changes)


def test_what_runs_and_what_failed_is_listed(smoke):
    running, failed, stopped = (trainings.of_cell(smoke, cell) for cell in smoke.cells[:3])
    lock(running.work)
    write_json(running.work / "progress.json", {"step": 20, "total": 90, "time": 1.0})
    write_text(failed.stages[0].log, "error: [no] such file\n")
    write_text(stopped.work / "last.pth", "")
    lock(trainings.of_pretraining(smoke, "mae", "resenc").work)
    console = Console(width=300, record=True)
    print_status(smoke, console)
    lines = [line.strip() for line in console.export_text().splitlines()]
    where = f"on {socket.gethostname()}, process {os.getpid()}"
    assert f"{running.name}: running: step 20 of 90 {where}" in lines
    assert f"{failed.name}: failed: finetune: error: [no] such file" in lines
    assert f"{stopped.name}: missing: finetune: interrupted, goes on where it stopped" in lines
    assert f"pre-training mae of resenc: running: before its first steps {where}" in lines
    (row,) = [line.split() for line in lines if line.startswith("smoke_nodules retina_unet_resenc mae seed0")]
    assert row[4:] == ["0", "0", "0", "1", "1", "1", "no"]


def test_json_tells_every_cell_and_what_runs(repository, smoke, monkeypatch):
    monkeypatch.setattr(
        "detpretrain.lock_file.shutil.which", lambda _: None
    )  # a Slurm of this machine knows no such job
    record(smoke, smoke.cells[0], evaluate={"source": "old"})
    running = trainings.of_cell(smoke, smoke.cells[1])
    lock(running.work, host="elsewhere", pid=4)
    beat = time.time() - 50
    os.utime(running.work / "lock.json", (beat, beat))
    write_json(running.work / "progress.json", {"step": 20, "total": 90, "time": 1.0})
    result = CliRunner().invoke(app, ["status", "--json", "--config", "config/smoke.yaml"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert list(told) == ["study", "counts", "cells", "pretrainings", "rows"]
    counts = {"fresh": 0, "source changed": 1, "recipe changed": 0, "running": 1, "failed": 0, "missing": 4}
    assert told["counts"] == counts
    stale, held, *others = told["cells"]
    assert stale == {
        "path": smoke.cells[0].path, "state": "source changed", "stages": {"evaluate": "source changed"}, "running": None,
        "imported": None,
    }  # fmt: skip
    run = held.pop("running")
    assert held == {"path": running.name, "state": "running", "stages": {}, "imported": None}
    assert 50 <= run.pop("heartbeat_age") < 60
    assert run == {"host": "elsewhere", "pid": 4, "job": "7", "since": None, "step": 20, "total": 90}
    assert {cell["state"] for cell in others} == {"missing"}
    assert told["pretrainings"] == [
        {"path": "mae/resenc", "state": "missing", "stages": {}, "running": None, "imported": None}
    ]
    assert told["rows"] == [{"path": row.path, "pooled": False} for row in smoke.rows]
    (running.work / "progress.json").unlink()
    told = json.loads(CliRunner().invoke(app, ["status", "--json", "--config", "config/smoke.yaml"]).stdout)
    assert told["cells"][1]["running"]["step"] is None


def test_the_command_reads_the_study_of_the_current_directory(repository, smoke):
    for cell in smoke.cells:
        record(smoke, cell)
    result = CliRunner().invoke(app, ["status", "--config", "config/smoke.yaml"])
    assert result.exit_code == 0
    assert "study smoke: cells" in result.stdout
    assert "-seed0:" not in result.stdout
    default = CliRunner().invoke(app, ["status"])
    assert default.exit_code == 0
    assert "study demo: cells" in default.stdout
    assert "/fold0-seed0: missing" in default.stdout


def test_elsewhere_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 1
    assert result.stderr == "error: config/demo.yaml: file not found\n"
