import pytest

from detpretrain.doctor.machine import GPU, Machine, findings, inspect
from detpretrain.training.precision import cpu_has_bf16

NEW, OLD = GPU("H200", 139.8, True), GPU("RTX 2080 Ti", 10.7, False)


def machine(*gpus, cpu_bf16=False):
    return Machine("2.13.0", "13.0" if gpus else None, gpus, cpu_bf16, 8, 62.6)


def states(*gpus, runtime=None, executor="local"):
    return {finding.name: finding.state for finding in findings(machine(*gpus), runtime or {}, executor)}


def test_this_machine():
    found = inspect()
    assert found.cpu_bf16 == cpu_has_bf16()
    assert found.cores >= 1
    assert found.memory_gib > 0.5


def test_facts_are_told():
    told = {finding.name: finding.found for finding in findings(machine(NEW, cpu_bf16=True), {}, "local")}
    assert told["torch"] == "2.13.0, for CUDA 13.0"
    assert told["GPU 0"] == "H200, 140 GiB, bf16 fast"
    assert told["processor"] == "8 cores, bf16 fast"
    assert told["memory"] == "63 GiB"
    told = {finding.name: finding.found for finding in findings(machine(), {}, "local")}
    assert told["torch"] == "2.13.0, CPU build"
    assert told["processor"] == "8 cores, bf16 slow, so a recipe's bf16 becomes fp32"


def test_gpu_without_bf16_is_a_warning():
    assert states(NEW, OLD) | {"torch": "ok"} == {
        "torch": "ok", "GPU 0": "ok", "GPU 1": "warning", "processor": "ok", "memory": "ok",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("runtime", "executor", "state"),
    [
        ({}, "local", "ok"),
        ({"gpus": 0}, "local", "ok"),
        ({"gpus": 1}, "local", "blocks"),
        ({"gpus": 1, "device": "cpu"}, "local", "ok"),
        ({"device": "cuda:0"}, "local", "blocks"),
        ({"gpus": 1}, "slurm", "warning"),
        ({"device": "cuda"}, "slurm", "warning"),
    ],
)
def test_no_gpu_blocks_only_what_wants_one_here(runtime, executor, state):
    assert states(runtime=runtime, executor=executor)["GPU"] == state
