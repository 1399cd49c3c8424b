"""One real run of the smallest study, and what a change of its sources or its configuration would run again."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from detpretrain import leaves, study, trainings

STATES = """
import json, sys
from pathlib import Path
from detpretrain import status, study
chosen = study.load(sys.argv[1:], Path("."))
print(json.dumps([[state.cell.init, state.state, dict(state.stages)] for state in status.cell_states(chosen)]))
"""


CLI = "import sys; from detpretrain.cli import app; app(sys.argv[1:])"


@contextmanager
def changed(path, before, after):
    """The file with another text, its times put back afterwards."""
    stat, text = path.stat(), path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def states(repository, study):
    return json.loads(repository.python(STATES, *study[1:]))


def test_everything_is_there_and_in_the_folder_that_the_study_names(finished):
    repository, results, _ = finished
    assert not (repository.root / "results").exists()
    smoke = results / "smoke"
    assert {path.name for path in results.iterdir()} == {"data", "smoke", "logs", "benchmarks"}
    for init in ("scratch", "mae"):
        for fold in range(3):
            cell = smoke / "cells" / "smoke_nodules" / "retina_unet_resenc" / init / f"fold{fold}-seed0"
            files = {"model.pth", "log.csv", "raw_boxes.parquet", "metrics.json", "matches.parquet"}
            assert {path.name for path in cell.iterdir()} == files
        row = smoke / "rows" / "smoke_nodules" / "retina_unet_resenc" / init / "seed0"
        assert {path.name for path in row.iterdir()} == {"metrics.json", "matches.parquet", "postprocessing.json"}
    table = pd.read_csv(smoke / "report" / "main_table.csv")
    assert len(table) == 2
    assert (smoke / "report" / "report.html").stat().st_size > 10_000


def test_metrics_tell_where_they_come_from(finished):
    _, results, _ = finished
    cell = results / "smoke" / "cells" / "smoke_nodules" / "retina_unet_resenc" / "mae" / "fold0-seed0"
    provenance = json.loads((cell / "metrics.json").read_text())["provenance"]
    for record in (provenance["finetune"]["pretrain"], *(provenance[s] for s in ("finetune", "predict", "evaluate"))):
        assert len(record["recipe"]) == len(record["source"]) == 12
        assert "torch" in record["versions"]
    assert provenance["finetune"]["seconds"] > 0


def test_second_run_has_nothing_to_do(finished):
    repository, _, study = finished
    assert repository.planned(*study) == []


def test_another_way_to_run_reruns_nothing(finished, tmp_path):
    repository, _, study = finished
    runtime = "{device: cpu, workers: 1, gpus: 0, budget_minutes: 500, stage: $TMPDIR}"
    (tmp_path / "fast.yaml").write_text(f"runtime: {runtime}\n")
    assert repository.planned(*study, tmp_path / "fast.yaml") == []


def test_work_lies_with_the_results_and_may_move_without_a_rerun(finished, tmp_path):
    repository, results, files = finished
    place = tmp_path / "scratch.yaml"
    place.write_text(f"pathvars: {{scratch: {tmp_path}}}\n")
    cells, pretrainings = trainings.of_study(study.load([repository.root / files[1], files[2]], repository.root))
    for training in (*cells, *pretrainings):
        assert training.work.is_relative_to(results / "smoke" / "work")
        assert training.work.is_dir()
    assert repository.planned(*files, place) == []


@pytest.mark.slow
def test_data_may_move_without_a_rerun(finished, tmp_path):
    """Behind a link; by another name of the folder, Snakemake has to be told that other names of inputs are no other inputs."""
    repository, results, study = finished
    moved = tmp_path / "fast"
    (results / "data").rename(moved)
    try:
        (tmp_path / "data.yaml").write_text(f"pathvars: {{data: {moved}}}\n")
        named = (*study, tmp_path / "data.yaml")
        assert repository.planned(*named, "--rerun-triggers", "mtime", "params", "code") == []
        assert {job.rule for job in repository.planned(*named)} >= {"pretrain", "finetune"}
        (results / "data").symlink_to(moved)
        assert repository.planned(*study) == []
        (results / "data").unlink()
    finally:
        moved.rename(results / "data")
    assert repository.planned(*study) == []


def test_touching_every_source_reruns_nothing_that_costs(finished):
    repository, _, study = finished
    now = time.time()
    for folder in ("src", "workflow", "config", "envs", "profiles"):
        for path in (repository.root / folder).rglob("*"):
            if path.is_file():
                os.utime(path, (now, now))
    os.utime(repository.root / "Snakefile", (now, now))
    assert {job.rule for job in repository.planned(*study)} <= {"compare", "report"}


def test_fresh_cells_are_told_as_fresh(finished):
    repository, _, study = finished
    assert states(repository, study) == [[init, "fresh", {}] for init in ("mae", "scratch") for _ in range(3)]


def test_changed_code_reruns_the_cheap_stages_and_is_told_by_status(finished):
    repository, _, study = finished
    with changed(repository.root / "src" / "detpretrain" / "errors.py", "sys.exit(status or 0)", "sys.exit(status)"):
        assert {job.rule for job in repository.planned(*study)} == {"compare", "report"}
        assert {state for _, state, _ in states(repository, study)} == {"source changed"}
    assert repository.planned(*study) == []


def test_changed_module_that_only_the_configuration_names_is_told(finished):
    repository, _, study = finished
    module = repository.root / "src/detpretrain/pretraining/masking.py"
    with changed(module, "(restored.float() - images) ** 2", "(restored.float() - images)"):
        found = states(repository, study)
    assert found == [["mae", "source changed", {"pretrain": "source changed"}]] * 3 + [["scratch", "fresh", {}]] * 3


def test_changed_leaf_of_the_method_reruns_it_and_its_cells_only(finished, count):
    repository, _, study = finished
    with changed(repository.root / "config" / "methods.yaml", "mae.MAE\n  ratio: 0.75", "mae.MAE\n  ratio: 0.6"):
        jobs = repository.planned(*study)
        found = states(repository, study)
    expected = {
        "pretrain": 1,
        "probe": 1,
        "finetune": 3,
        "predict": 3,
        "evaluate": 3,
        "consolidate": 1,
        "compare": 1,
        "report": 1,
    }
    assert count(jobs) == expected
    assert {job.wildcards["init"] for job in jobs if "init" in job.wildcards} == {"mae"}
    assert [[init, state] for init, state, _ in found] == [["mae", "recipe changed"]] * 3 + [["scratch", "fresh"]] * 3


def test_changed_inference_reruns_predictions_but_no_training(finished, count):
    repository, _, study = finished
    smoke = "inference: {overlap: 0.25, mirror_axes: [2], tile_batch: 8}\n\n# The same network"  # of retina_unet_resenc
    with changed(repository.root / "config" / "detectors.yaml", smoke, smoke.replace("0.25", "0.5")):
        counts = count(repository.planned(*study))
    assert counts == {"predict": 6, "evaluate": 6, "consolidate": 2, "compare": 1, "report": 1}


def configs(*files):
    return [word for file in files for word in ("--config", file)]


def test_results_logs_and_work_lie_where_status_looks_for_them(finished):
    repository, _, files = finished
    chosen = study.load([repository.root / files[1], *files[2:]], repository.root)
    cells, pretrainings = trainings.of_study(chosen)
    for training in (*cells, *pretrainings):
        assert training.finished()
        assert (training.work / "tensorboard").is_dir()
        assert all(stage.log.is_file() for stage in training.stages)


def test_rerun_plans_the_outermost_stale_stage_and_what_follows(finished, planned_by, count):
    repository, _, files = finished
    module = repository.root / "src/detpretrain/pretraining/masking.py"
    with changed(module, "(restored.float() - images) ** 2", "(restored.float() - images)"):
        plan = repository.detpretrain("rerun", "--stale", "folds=0+2", "--dry-run", *configs(*files[1:]))
    jobs = planned_by(plan)
    assert count(jobs) == {"pretrain": 1, "finetune": 2, "predict": 2, "evaluate": 2}
    assert {job.wildcards["init"] for job in jobs} == {"mae"}
    assert {job.wildcards["fold"] for job in jobs if "fold" in job.wildcards} == {"0", "2"}


def test_rerun_makes_stale_cells_fresh_and_touches_no_other(finished, tmp_path):
    repository, results, files = finished
    copy, override = tmp_path / "results", tmp_path / "elsewhere.yaml"
    shutil.copytree(results, copy)
    override.write_text(f"pathvars: {{results: {copy}}}\n")
    before = {path: path.stat().st_mtime_ns for path in (copy / "smoke" / "cells").rglob("*") if path.is_file()}
    part, arguments = "rows=scratch,folds=0", configs(*files[1:], override)
    module = repository.root / "src/detpretrain/inference/scoring.py"
    with changed(module, '{"case": str, "patient": str}', '{"patient": str, "case": str}'):
        repository.detpretrain("rerun", "--stale", part, *arguments, "--", "-c1")
        found = states(repository, (*files, override))
        assert "nothing to run" in repository.detpretrain("rerun", "--stale", part, *arguments)
    stale = ["source changed", {"evaluate": "source changed"}]
    assert found == [["mae", *stale]] * 3 + [["scratch", "fresh", {}]] + [["scratch", *stale]] * 2
    made = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert made == {"metrics.json", "matches.parquet"}
    assert sum(path.stat().st_mtime_ns != time for path, time in before.items()) == 2


def test_more_seeds_add_cells_and_rerun_none(finished, tmp_path, count):
    repository, _, study = finished
    (tmp_path / "seeds.yaml").write_text("seeds: [0, 1]\n")
    jobs = repository.planned(*study, tmp_path / "seeds.yaml")
    assert {job.wildcards["seed"] for job in jobs if "seed" in job.wildcards} == {"1"}
    assert count(jobs)["finetune"] == 6
    assert not count(jobs)["pretrain"]


def test_what_is_there_so_far_is_reported_and_what_is_missing_named(finished, tmp_path):
    repository, results, study = finished
    copy, override = tmp_path / "results", tmp_path / "elsewhere.yaml"
    shutil.copytree(results, copy)
    override.write_text(f"pathvars: {{results: {copy}}}\n")
    shutil.rmtree(copy / "smoke" / "rows" / "smoke_nodules" / "retina_unet_resenc" / "mae")
    shutil.rmtree(copy / "smoke" / "cells" / "smoke_nodules" / "retina_unet_resenc" / "mae" / "fold1-seed0")
    before = sorted(path for path in copy.rglob("*"))
    arguments = configs(*study[1:], override)
    told = repository.python(CLI, "report", "-o", tmp_path / "made", *arguments)
    missing = [line.removeprefix("missing: ") for line in told.splitlines() if line.startswith("missing: ")]
    row = "smoke_nodules/retina_unet_resenc/mae"
    assert missing == [f"cell {row}/fold1-seed0", f"row {row}/seed0"]
    page = (tmp_path / "made" / "report" / "report.html").read_text()
    assert f"Incomplete: 2 of the study&#39;s results are missing (cell {row}/fold1-seed0, row {row}/seed0)." in page
    assert (
        "cell-smoke_nodules-retina_unet_resenc-mae-fold0-seed0" in page
    )  # a finished cell of the row that is not whole
    assert list(pd.read_csv(tmp_path / "made" / "report" / "main_table.csv")["init"]) == ["scratch"]
    assert sorted(path for path in copy.rglob("*")) == before
    shutil.rmtree(copy / "smoke" / "rows")
    failed = subprocess.run(
        [sys.executable, "-c", CLI, "report", "-o", str(tmp_path / "none"), *map(str, arguments)],
        cwd=repository.root,
        env={**os.environ, "PYTHONPATH": str(repository.root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "no row of the study is whole yet" in failed.stderr
    assert not (tmp_path / "none").exists()


def test_snakemake_s_own_report_holds_page_table_and_figures(finished, tmp_path):
    repository, _, study = finished
    repository.snakemake("--report", tmp_path / "report.zip", *study)
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {"report.html", "main_table.csv", "froc_smoke_nodules.svg", "differences.svg"} <= names


def test_a_part_is_reported_in_a_folder_of_its_own(finished, count):
    repository, results, study = finished
    part = ("--config", "only=rows=mae")
    whole = {path: path.stat().st_mtime_ns for path in (results / "smoke" / "report").iterdir()}
    assert count(repository.planned(*study, *part)) == {"compare": 1, "report": 1}
    repository.snakemake("-c1", *study, *part)
    assert {path: path.stat().st_mtime_ns for path in (results / "smoke" / "report").iterdir()} == whole
    folder = results / "smoke" / "only" / "rows=mae"
    assert list(pd.read_csv(folder / "report" / "main_table.csv")["init"]) == ["mae"]
    assert list(pd.read_csv(folder / "comparison" / "scores.csv")["init"]) == ["mae"]
    assert (folder / "report" / "report.html").stat().st_size > 10_000
    assert repository.planned(*study, *part) == repository.planned(*study) == []
    assert repository.planned(*study, "--config", "only=folds=1") == []


def test_corpus_that_is_scored_too_stops_the_study_unless_accepted(finished, tmp_path):
    repository, results, study = finished
    own = tmp_path / "own.yaml"
    own.write_text("study: own\ncorpus: smoke_nodules\n")
    target = results / "own" / "leakage" / "mae" / "smoke_nodules.json"
    repository.snakemake("-c1", target, *study, own, check=False)
    (told,) = (results / "own" / "logs" / "leakage" / "mae-smoke_nodules.log").read_text().splitlines()
    assert told.startswith("error: init mae was pre-trained on ")
    assert "identifiers that smoke_nodules scores" in told
    assert not target.exists()
    own.write_text("study: own\ncorpus: smoke_nodules\naccept_overlap: {mae: [smoke_nodules]}\n")
    repository.snakemake("-c1", target, *study, own)
    found = json.loads(target.read_text())
    assert found["accepted"]
    assert len(found["patients"]) == 9
    shutil.rmtree(results / "own")


@pytest.fixture
def refused(finished, tmp_path):
    """``refused(script, edit)``: the one line of a job of fold 0 that gets splits whose fold 0 was edited."""
    repository, results, files = finished
    task, cell = results / "data" / "smoke_nodules" / "task", "smoke_nodules/retina_unet_resenc/scratch/fold0-seed0"
    chosen = study.load([repository.root / files[1], *files[2:]], repository.root)
    recipes = {
        "finetune": leaves.recipe("finetune", leaves.finetune(chosen, "retina_unet_resenc", "scratch", 0, 0)),
        "predict": leaves.recipe("predict", leaves.predict(chosen, "retina_unet_resenc")),
    }
    outputs = {name: tmp_path / name for name in ("work", "model", "log", "output")}
    model = results / "smoke" / "cells" / cell / "model.pth"
    arguments = {
        "finetune": [
            *("--dataset", "smoke_nodules", "--init", "scratch", "--seed", 0, "--work", outputs["work"]),
            *("--model", outputs["model"], "--log", outputs["log"]),
        ],
        "predict": ["--model", model, "--output", outputs["output"]],
    }

    def run(script, edit):
        content = json.loads((task / "splits.json").read_text())
        edit(content["folds"][0])
        (tmp_path / "splits.json").write_text(json.dumps(content))
        shutil.copy(task / "cases.csv", tmp_path / "cases.csv")
        command = [sys.executable, repository.root / "workflow" / "scripts" / f"{script}.py", "--config"]
        command += [os.pathsep.join(files[1:]), "--detector", "retina_unet_resenc", "--fold", 0, "--device", "cpu"]
        command += ["--recipe", recipes[script], "--splits", tmp_path / "splits.json", *arguments[script]]
        command += ["--index", results / "data" / "smoke_nodules" / "smoke" / "preprocessed" / "index.json"]
        environment = {**os.environ, "PYTHONPATH": str(repository.root / "src")}
        done = subprocess.run(
            list(map(str, command)), cwd=repository.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert not any(outputs[name].exists() for name in ("model", "log", "output"))
        return done.stderr

    return run


@pytest.mark.parametrize("script", ["finetune", "predict"])
def test_patient_on_both_sides_of_an_edited_split_is_refused(refused, tmp_path, script):
    told = refused(script, lambda fold: fold["val"].append(fold["train"][0]))
    assert told.startswith(f"error: {tmp_path}/splits.json: fold 0: patient nodules_")
    assert "in both train and val" in told
    assert told.count("\n") == 1


def test_split_that_was_edited_after_the_training_is_refused(refused):
    def swap(fold):
        fold["train"], fold["val"] = fold["val"], fold["train"]

    told = refused("predict", swap)
    assert "was trained on and is in what the model is scored on: undo the edit, or prepare the task again" in told
    assert told.count("\n") == 1
