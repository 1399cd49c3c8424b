"""The command as a user runs it, on the study files of this repository."""

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from detpretrain.cli import app
from detpretrain.doctor import machine
from detpretrain.doctor.examination import print_topics
from detpretrain.doctor.finding import Finding, Topic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def doctor(tmp_path, monkeypatch):
    """Runs it in a folder that has this repository's configuration, and results of its own."""
    for name in ("config", "workflow", "pyproject.toml", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.delenv("DETPRETRAIN_RAW", raising=False)
    monkeypatch.setattr(machine, "inspect", lambda: machine.Machine("2.13.0", None, (), True, 2, 8.0))
    return lambda *arguments: CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_nothing_blocks_the_demo(doctor):
    done = doctor()
    assert done.exit_code == 0, done.output
    assert "study demo: 14 cells in 7 rows" in done.stdout
    for title in ("software", "machine", "data sets", "checkpoints", "room", "time"):
        assert title in done.stdout
    assert "nothing blocks the study" in done.stdout


def test_the_whole_study_without_data_names_every_download(doctor, tmp_path):
    speeds = dict.fromkeys(("retina_unet_plainconv", "retina_unet_resenc", "deformable_detr_resenc"), 2)
    speeds |= dict.fromkeys(("mae", "models_genesis", "s3d", "voco", "multitalent"), 1)
    override = tmp_path / "speeds.yaml"
    override.write_text(f"runtime: {{steps_per_second: {speeds}}}\n")
    done = doctor("--configfile", "config/paper.yaml", "--configfile", override)
    assert done.exit_code == 1
    assert "study paper: 574 cells in 112 rows" in done.stdout
    assert "none, but the study asks for one" in done.stdout
    assert done.stdout.count("DETPRETRAIN_RAW is not set") == 19
    assert "https://luna16.grand-challenge.org" in done.stdout
    fine_tuning = (246 * 250_000 + 328 * 125_000) / 2 / 3600
    assert f"{fine_tuning + 6 * 250_000 / 3600:,.1f}" in done.stdout
    assert "things that block the study: 2" in done.stdout


def test_a_study_without_its_engine_is_blocked(doctor, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    rows = [{"detector": "retina_unet_nndet", "init": "scratch"}]
    (tmp_path / "engine.yaml").write_text(f"rows: {rows}\n")
    done = doctor("--configfile", "config/smoke.yaml", "--configfile", "engine.yaml")
    assert done.exit_code == 1
    lines = [line for line in done.stdout.splitlines() if "nndet_train" in line]
    assert len(lines) == 1
    assert "engine nndet" in lines[0]
    assert "make its environment (envs/nndet.yaml)" in lines[0]
    assert "things that block the study: 1" in done.stdout


def test_a_part_of_it(doctor):
    done = doctor("--configfile", "config/paper.yaml", "--only", "datasets=luna16,rows=scratch")
    assert "study paper: 30 cells in 3 rows" in done.stdout
    assert "luna16 (scored)" in done.stdout
    assert "lidc" not in done.stdout
    assert "pre-training" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--configfile", "nowhere.yaml"], "error: nowhere.yaml: file not found"),
        (["--only", "rows=mea"], "error: only=rows=mea: study demo has no 'mea' in rows: did you mean 'mae'?"),
        (["--profile", "nowhere"], "error: nowhere: no profile.yaml in it"),
    ],
)
def test_mistake_is_one_line(doctor, arguments, line):
    done = doctor(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_brackets_in_findings_are_printed(tmp_path):
    console = Console(width=120, record=True)
    study = type("S", (), {"name": "s", "cells": [], "rows": []})
    topic = Topic("t", [Finding("a", "x[test]y", "blocks", "[bold]do")], ("c",), [("[red]z",)])
    print_topics(study, [topic], console)
    text = console.export_text()
    assert "x[test]y" in text
    assert "[bold]do" in text
    assert "[red]z" in text
    assert "things that block the study: 1" in text
