"""The smoke study through Slurm gives what it gives without."""

import json
import subprocess

import pytest
import torch

pytestmark = pytest.mark.slurm

GPU_STUDY = "runtime: {gpus: 1}\npathvars: {results: RESULTS}\n"


def weights(path):
    return torch.load(path, weights_only=True)["weights"]


def scores(path):
    """Metric values without what tells about the run."""
    content = json.loads(path.read_text())
    content.pop("provenance")
    return content


def test_smoke_study_is_what_it_is_on_one_machine(new_copy, submit, tmp_path):
    local, cluster = new_copy(), new_copy()
    for repository in (local, cluster):
        (repository.root / "place.yaml").write_text(GPU_STUDY.replace("RESULTS", str(repository.root / "out")))
    study = ("--configfile", "config/smoke.yaml", "place.yaml")
    partitions = ("--default-resources", "slurm_partition=gpu", "--set-resources", "leakage:slurm_partition=short")
    submission = submit(cluster, *study, *partitions)
    submission.start()
    assert submission.finish(900) == 0, submission.told()

    jobs = [line for line in submission.seen.values() if line.folder == str(cluster.root)]
    trainings = [line for line in jobs if "rule_finetune" in line.comment]
    assert len(trainings) == 6
    for line in trainings:
        assert line.partition == "gpu"
        assert line.memory == "5500M"
        assert line.limit == "2-00:00:00"
        told = subprocess.run(["scontrol", "show", "job", line.job], capture_output=True, text=True, check=True).stdout
        assert "TresPerJob=gres:gpu:1" in told
    scored = [line for line in jobs if "group_score" in line.comment or "score" in line.comment]
    assert len(scored) == 6  # predict and evaluate of a cell are one job
    assert {line.partition for line in jobs} == {"gpu", "short"}

    local.snakemake("-c2", *study)
    found = sorted(path.relative_to(local.root) for path in (local.root / "out").rglob("model.pth"))
    assert len(found) == 6
    for path in found:
        ours, theirs = weights(local.root / path), weights(cluster.root / path)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    metrics = sorted(path.relative_to(local.root) for path in (local.root / "out").rglob("metrics.json"))
    assert len(metrics) == 6 + 2
    for path in metrics:
        assert scores(local.root / path) == scores(cluster.root / path)
