import os
import runpy
import sys
from pathlib import Path

import pytest

from detpretrain import jobs, leaves, study, study_file
from detpretrain.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def parsed(*arguments):
    parser = jobs.parser("a job")
    jobs.add_study(parser)
    jobs.add_runtime(parser)
    return parser.parse_args(["--recipe", "abc", "--config", os.pathsep.join(["a.yaml", "b.yaml"]), *arguments])


def test_several_study_files_keep_their_order():
    assert parsed().config == [Path("a.yaml"), Path("b.yaml")]


@pytest.fixture(autouse=True)
def _no_batch_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def test_command_line_overrides_the_study_s_runtime():
    chosen = study.assemble(
        study_file.merge(
            study.read_yaml(ROOT / "config" / "smoke.yaml"),
            {"runtime": {"device": "cuda:1", "workers": 3, "stage": "$TMPDIR"}},
        ),
        ROOT,
        "x",
    )
    own = {"device": "cuda:1", "workers": 3, "budget_minutes": None, "stage": "$TMPDIR"}
    assert jobs.runtime_settings(parsed(), chosen) == own
    given = parsed("--device", "cpu", "--workers", "0", "--budget-minutes", "1.5", "--stage", "/local")
    expected = {"device": "cpu", "workers": 0, "budget_minutes": 1.5, "stage": "/local"}
    assert jobs.runtime_settings(given, chosen) == expected


def test_budget_is_no_more_than_the_batch_job_has_left(monkeypatch):
    chosen = study.load([ROOT / "config" / "smoke.yaml"], ROOT)
    assert jobs.runtime_settings(parsed("--job-minutes", "100"), chosen)["budget_minutes"] is None
    monkeypatch.setenv("PBS_JOBID", "1")
    assert jobs.runtime_settings(parsed("--job-minutes", "100"), chosen)["budget_minutes"] == 95
    given = parsed("--job-minutes", "100", "--budget-minutes", "90")
    assert jobs.runtime_settings(given, chosen)["budget_minutes"] == 90
    assert jobs.runtime_settings(parsed(), chosen)["budget_minutes"] is None


@pytest.mark.parametrize(
    ("runtime", "given", "expected"),
    [
        ({}, [], {"processes": 0, "nodes": None, "cpus": 1}),
        ({"gpus": 4, "workers": 3}, [], {"processes": 4, "nodes": None, "cpus": 4}),
        ({"gpus": 4, "nodes": 2, "workers": 3}, ["--workers", "1"], {"processes": 4, "nodes": 2, "cpus": 2}),
    ],
)
def test_processes_of_a_training(runtime, given, expected):
    smoke = study.read_yaml(ROOT / "config" / "smoke.yaml")
    found = jobs.processes(parsed(*given), study.assemble(smoke | {"runtime": runtime}, ROOT, "x"), Path("work"))
    assert found == expected | {"work": Path("work")}


CELL = (
    "--dataset smoke_nodules --detector retina_unet_resenc --init mae --fold 1 --seed 0 --index i --splits s --model m"
)
PRETRAINING = "--init mae --backbone resenc --indices i --tasks t --checkpoint c --assessment a --preview p"


@pytest.mark.parametrize(
    ("script", "arguments", "work"),
    [
        ("finetune", CELL, "results/smoke/work/smoke_nodules/retina_unet_resenc/mae/fold1-seed0"),
        ("pretrain", PRETRAINING, "results/smoke/work/pretrained/mae/resenc"),
    ],
)
def test_processes_of_a_training_share_the_work_folder_of_the_study(script, arguments, work, monkeypatch):
    given = {}
    main = runpy.run_path(str(ROOT / "workflow" / "scripts" / f"{script}.py"))["main"]
    monkeypatch.setattr("detpretrain.training.distributed.relaunch", lambda **named: given.update(named) or sys.exit(0))
    config = ["--config", str(ROOT / "config" / "smoke.yaml"), "--recipe", "r", "--log", "l"]
    monkeypatch.setattr(sys, "argv", [script, *config, *arguments.split()])
    with pytest.raises(SystemExit):
        main()
    assert given["work"] == Path(work)


def test_job_of_another_configuration_refuses():
    defining = {"spec": {"patch": 32}}
    jobs.check_recipe("plan", defining, leaves.recipe("plan", defining))
    with pytest.raises(InputError, match=r"plan: the configuration hashes to .* start snakemake again") as error:
        jobs.check_recipe("plan", {"spec": {"patch": 33}}, leaves.recipe("plan", defining))
    assert "\n" not in str(error.value)


def test_recipe_is_required(capsys):
    with pytest.raises(SystemExit):
        jobs.parser("a job").parse_args([])
    assert "--recipe" in capsys.readouterr().err
