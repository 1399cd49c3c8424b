"""What the Slurm plugin makes of the resources of trainings that run as several processes: the sbatch call, word by word."""

import re
import shlex
from types import SimpleNamespace

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm_jobstep import get_cpu_setting, get_gpu_setting, get_node_setting

CELL = "results/smoke/cells/smoke_nodules/retina_unet_resenc/mae/fold0-seed0/metrics.json"
PARAMS = {"run_uuid": "u", "slurm_logfile": "l", "comment_str": "c", "account": "", "partition": "", "workdir": None}


class Resources(dict):
    __getattr__ = dict.__getitem__


@pytest.fixture(scope="module")
def job_of(repository, tmp_path_factory):
    """``job_of(rule, runtime)``: the job of a rule as a dry run plans it, one of all rules for each ``runtime``."""
    plans = {}

    def planned(runtime):
        file = tmp_path_factory.mktemp("study") / "more.yaml"
        file.write_text(yaml.safe_dump({"runtime": runtime}))
        return repository.snakemake("-n", "-c64", CELL, "--configfile", "config/smoke.yaml", file)

    def job(rule, runtime):
        key = str(runtime)
        plans[key] = plans.get(key) or planned(runtime)
        block = re.search(rf"^rule {rule}:\n((?:    .*\n)+)", plans[key], flags=re.MULTILINE)[1]
        fields = dict(re.findall(r"^    (\w+): (.*)$", block, flags=re.MULTILINE))
        pairs = [pair.partition("=") for pair in fields["resources"].split(", ")]
        values = {name: int(value) if value.isdigit() else value for name, _, value in pairs}
        return SimpleNamespace(resources=Resources(values), threads=int(fields.get("threads", 1)))

    return job


def sbatch(job):
    return set(shlex.split(get_submit_command(job, PARAMS) + set_gres_string(job)))


TASKS = ("--ntasks=", "--ntasks-per-node=", "--ntasks-per-gpu=", "--nodes=", "--gpus=", "--gres=", "--cpus-per-task=")


SPREAD, ON_ONE, SINGLE = {"gpus": 8, "nodes": 2, "workers": 3}, {"gpus": 4, "workers": 3}, {"gpus": 1, "workers": 3}


@pytest.mark.parametrize("rule", ["finetune", "pretrain"])
@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (SPREAD, {"--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4", "--cpus-per-task=4"}),
        ({"gpus": 2, "nodes": 2}, {"--nodes=2", "--ntasks=2", "--gres=gpu:1", "--cpus-per-task=1"}),
        ({"gpus": 2, "nodes": 1, "device": "cpu"}, {"--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1"}),
        (ON_ONE, {"--nodes=1", "--gpus=4", "--cpus-per-task=16"}),
        (SINGLE, {"--gpus=1", "--cpus-per-task=4"}),
    ],
    ids=["4 on 2 nodes", "1 on 2 nodes", "2 on 1 node, CPU", "4 of a machine", "1"],
)
def test_a_training_asks_for_its_processes(job_of, rule, runtime, expected):
    job = job_of(rule, runtime)
    asked = sbatch(job)
    assert {word for word in asked if word.startswith(TASKS)} == expected
    assert str(job.resources.mem_mb) in asked
    process = 1500 if runtime.get("device") == "cpu" else 5000
    assert job.resources.mem_mb >= process * max(runtime["gpus"] // runtime.get("nodes", 1), 1)  # of each node
    # over nodes: Snakemake runs in the batch script and leaves the steps to the training; else in a step of the whole job
    assert ("mpi" in job.resources) == ("nodes" in runtime)
    if "nodes" not in runtime:
        assert get_gpu_setting(job) == f"--gpus={runtime['gpus']}"
        assert get_node_setting(job) == "--nodes=1"
        assert get_cpu_setting(job, True) == f"--cpus-per-task={job.threads}"


@pytest.mark.parametrize("runtime", [SPREAD, ON_ONE], ids=["of several nodes", "of one"])
def test_a_prediction_asks_for_one_gpu_of_one_node(job_of, runtime):
    job = job_of("predict", runtime)
    assert "--gpus=1" in sbatch(job)
    assert not {"nodes", "mpi", "gres", "tasks"} & set(job.resources)
