"""What jobs ask for: hand-worked minutes and jobs, memory against what is known of trainings."""

import math
from pathlib import Path

import pytest

from detpretrain import job_requests, study, study_file
from detpretrain.files import write_json

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = "retina_unet_resenc"
STEPS = 2 * 6  # of the smoke recipes


@pytest.fixture
def assemble(tmp_path):
    def make(name="smoke", **runtime):
        config = study.read_yaml(ROOT / "config" / f"{name}.yaml")
        changed = {"runtime": runtime, "pathvars": {"results": str(tmp_path)}}
        return study.assemble(study_file.merge(config, changed), ROOT, name)

    return make


def finish(chosen, seconds):
    record = {"provenance": {"finetune": {"seconds": seconds, "device": "cuda:0"}}}
    write_json(chosen.folder / "cells" / chosen.cells[0].path / "metrics.json", record)


def test_minutes_follow_from_steps_and_their_speed(assemble):
    chosen = assemble(steps_per_second={DETECTOR: 0.001, "mae": 0.1})
    assert job_requests.finetune_minutes(chosen, DETECTOR) == 1.3 * 200 + 15
    assert job_requests.pretrain_minutes(chosen, "mae", "resenc") == 3 + 15
    assert job_requests.finetune_jobs(chosen) == job_requests.pretrain_jobs(chosen) == 1


def test_what_was_measured_outweighs_what_was_said(assemble):
    chosen = assemble(steps_per_second={DETECTOR: 0.001})
    finish(chosen, 3600.0)
    assert job_requests.finetune_minutes(chosen, DETECTOR) == 78 + 15


def test_unknown_speed_asks_for_a_full_training_or_for_what_one_job_may_have(assemble):
    assert job_requests.finetune_minutes(assemble(), DETECTOR) == 2880
    assert job_requests.pretrain_minutes(assemble(), "mae", "resenc") == 7200
    limited = assemble(budget_minutes=1440)
    assert job_requests.finetune_minutes(limited, DETECTOR) == 1440
    # each job trains for 1440 minutes less 15 to start and 15 to stop
    assert job_requests.finetune_jobs(limited) == math.ceil(2880 / 1410) == 3
    assert job_requests.pretrain_jobs(limited) == math.ceil(7200 / 1410) == 6


def test_training_within_one_job_needs_no_second(assemble):
    chosen = assemble(budget_minutes=1440, steps_per_second={DETECTOR: 0.001, "mae": 0.001})
    assert job_requests.finetune_minutes(chosen, DETECTOR) == 275
    assert job_requests.finetune_jobs(chosen) == 1
    short = assemble(budget_minutes=20, steps_per_second={DETECTOR: 0.001, "mae": 1})
    assert job_requests.finetune_minutes(short, DETECTOR) == 20
    assert job_requests.finetune_jobs(short) == math.ceil(275 / 10)  # at least half of a job is spent on training
    assert job_requests.pretrain_jobs(short) == 1


def test_memory_grows_with_loaders_gpus_and_patch(assemble):
    gpu = job_requests.finetune_memory(assemble("paper", gpus=1, workers=8), DETECTOR)
    assert 8_000 < gpu < 32_000
    assert job_requests.finetune_memory(assemble("paper", gpus=1, workers=16), DETECTOR) > gpu
    assert job_requests.finetune_memory(assemble("paper", gpus=4, workers=8), DETECTOR) >= gpu + 3 * 5000
    assert job_requests.pretrain_memory(assemble("paper", gpus=1, workers=8), "mae") > 8_000
    # a step on the CPU keeps its activations in main memory: the reference network for 11 GB in half precision
    assert job_requests.finetune_memory(assemble("paper", gpus=0, workers=0), DETECTOR) > 20_000
    assert job_requests.finetune_memory(assemble(), DETECTOR) <= 2_500


def test_memory_of_a_prediction_follows_the_largest_case(assemble, tmp_path):
    chosen = assemble("paper", gpus=1)
    unknown = job_requests.prediction_memory(chosen, "lidc", DETECTOR)
    assert unknown == 13_000
    assert job_requests.preparation_memory(chosen, "lidc", 8) == 1500 + 8 * 8000
    cases = tmp_path / "data" / "lidc" / "task" / "cases.csv"
    cases.parent.mkdir(parents=True)
    cases.write_text("case,shape_z,shape_y,shape_x\na,100,512,512\nb,64,512,512\n")
    assert (
        job_requests.prediction_memory(chosen, "lidc", DETECTOR) == 5000 + 2000
    )  # 64 bytes of 26 million voxels: 1600 MB
    assert job_requests.preparation_memory(chosen, "lidc", 2) == 5000


def test_every_study_s_jobs_have_numbers(assemble):
    for name in ("demo", "grid", "smoke", "paper", "real_mr"):
        chosen = assemble(name)
        for row in chosen.rows:
            assert job_requests.finetune_minutes(chosen, row.detector) > 0
            assert job_requests.finetune_memory(chosen, row.detector) >= 1500
            assert job_requests.prediction_memory(chosen, row.dataset, row.detector) >= 1500
        for init, backbone in chosen.pretrainings:
            assert job_requests.pretrain_minutes(chosen, init, backbone) > 0
            assert job_requests.pretrain_memory(chosen, init) >= 1500
