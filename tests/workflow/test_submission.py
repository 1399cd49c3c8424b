"""What the whole study would send to Slurm: the plugin's own lines, from the resources of a dry run."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

PAPER = ("--configfile", "config/paper.yaml")
LIMIT = 1440  # minutes, as many clusters have it
# no speed of these is measured here: they are given as a user would after a short run
SPEEDS = {"retina_unet_resenc": 1.6, "retina_unet_plainconv": 3.0, "deformable_detr_resenc": 1.2, "mae": 4.0}
PARTITION = {"finetune": "gpu", "pretrain": "gpu", "predict": "gpu"}


class Resources(dict):
    """As a job's: a mapping whose values are attributes too."""

    __getattr__ = dict.__getitem__


@pytest.fixture(scope="module")
def jobs(repository, tmp_path_factory):
    override = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    override.write_text(
        f"runtime: {{gpus: 1, workers: 8, processes: 8, budget_minutes: {LIMIT}, steps_per_second: {SPEEDS}}}\n"
    )
    return repository.planned(*PAPER, override, "-c64")  # threads are no more than the cores of a run


def sbatch(job) -> str:
    """The line that submits a job."""
    numbers = {name: int(value) for name, value in job.resources.items() if value.isdigit()}
    asked = SimpleNamespace(resources=Resources(numbers), threads=job.threads, is_group=lambda: False)
    params = {
        "run_uuid": "study",
        "slurm_logfile": f"logs/{job.rule}.log",
        "comment_str": job.rule,
        "account": "-A lab",
        "partition": f"-p {PARTITION.get(job.rule, 'cpu')}",
        "workdir": ".",
    }
    return get_submit_command(asked, params) + set_gres_string(asked)


def options(job) -> dict[str, str]:
    return dict(re.findall(r"(?<= )(--?[\w-]+)[ =](\S+)", sbatch(job)))


def test_every_job_is_one_that_a_cluster_takes(jobs):
    for job in jobs:
        asked = options(job)
        assert 0 < int(asked["-t"]) <= (LIMIT if job.rule in ("finetune", "pretrain") else 2 * LIMIT), job.rule
        assert 500 <= int(asked["--mem"]) <= 128_000, job.rule
        assert 1 <= job.threads <= 16, job.rule
        assert ("--gpus" in asked) == (job.rule in PARTITION), job.rule


def test_trainings_ask_for_their_steps(jobs):
    asked = {job.wildcards["detector"]: options(job) for job in jobs if job.rule == "finetune"}
    assert {line["--gpus"] for line in asked.values()} == {"1"}
    assert {line["--cpus-per-task"] for line in asked.values()} == {"9"}
    # 250,000 steps at 1.6 and at 1.2 a second are days, so each job asks for all it may have; 125,000 at 3 fit into one
    print({name: line["-t"] for name, line in asked.items()})
    assert asked["retina_unet_resenc"]["-t"] == asked["deformable_detr_resenc"]["-t"] == str(LIMIT)
    assert int(asked["retina_unet_plainconv"]["-t"]) < LIMIT + 1


def test_lines_can_be_looked_at(jobs):
    """One line per rule; shown by ``pytest -s``."""
    shown = {}
    for job in jobs:
        shown.setdefault(job.rule, sbatch(job))
    print(*shown.values(), sep="\n")
    assert set(shown) >= {"prepare", "plan", "preprocess", "pretrain", "finetune", "predict", "evaluate", "consolidate"}
