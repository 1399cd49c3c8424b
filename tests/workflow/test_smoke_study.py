"""One real run of the smallest study, and what a change of its sources or its configuration would run again."""

import json
import os
import time
from contextlib import contextmanager

import pandas as pd

STATES = """
import json, sys
from pathlib import Path
from detpretrain import status, study
chosen = study.load(sys.argv[1:], Path("."))
print(json.dumps([[state.cell.init, state.state, dict(state.stages)] for state in status.cell_states(chosen)]))
"""


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
    (tmp_path / "fast.yaml").write_text("runtime: {device: cpu, workers: 1, gpus: 0, budget_minutes: 500}\n")
    assert repository.planned(*study, tmp_path / "fast.yaml") == []


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


def test_more_seeds_add_cells_and_rerun_none(finished, tmp_path, count):
    repository, _, study = finished
    (tmp_path / "seeds.yaml").write_text("seeds: [0, 1]\n")
    jobs = repository.planned(*study, tmp_path / "seeds.yaml")
    assert {job.wildcards["seed"] for job in jobs if "seed" in job.wildcards} == {"1"}
    assert count(jobs)["finetune"] == 6
    assert not count(jobs)["pretrain"]
