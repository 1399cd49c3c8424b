"""Processes that do nothing but end in some way, started on this machine and by a stand-in of srun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in_srun import install

from detpretrain.errors import InputError
from detpretrain.job_log import last_error
from detpretrain.training import distributed, launch

# Each process does what its line of the plan says; one whose line is "hang" does as one that waits for another for ever.
SCRIPT = """
import os, signal, sys, time
rank = int(os.environ["RANK"] if "RANK" in os.environ else os.environ["SLURM_PROCID"])
time.sleep(0.1 * rank)
for what in sys.argv[1 + rank].split("+"):
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    elif what == "warn all":
        print("a warning of all", file=sys.stderr)
    elif what == "warn":
        print(f"a warning of {rank}", file=sys.stderr)
    elif what == "input":
        print("error: a.nii.gz: file not found", file=sys.stderr)
        sys.exit(1)
    elif what == "raise":
        raise RuntimeError(f"of {rank}")
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "wait":
        time.sleep(1.2)
    elif what == "stop":
        print("stopped at step 3 of 4, saved", file=sys.stderr)
    elif what == "say":
        print(f"process {rank}", flush=True)
    else:
        sys.exit(int(what))
"""
MAIN = """
import sys
from pathlib import Path
from detpretrain.training import launch
launch.GRACE = 0.5
command, work = [sys.executable, sys.argv[2], *sys.argv[4:]], Path(sys.argv[3])
n = len(sys.argv) - 4
sys.exit(launch.here(command, n, work) if sys.argv[1] == "here" else launch.by_slurm(command, n, 2, 3, work))
"""


@pytest.fixture
def started(tmp_path):
    """``started(by, *plan)``: a launcher, "here" or "slurm", of as many processes as the plan has lines."""
    (tmp_path / "script.py").write_text(SCRIPT)
    slurm = install(tmp_path / "bin")

    def start(by, *plan):
        with open(tmp_path / "job.log", "wb") as log:
            arguments = [sys.executable, "-c", MAIN, by, tmp_path / "script.py", tmp_path / "work", *plan]
            environment = {**os.environ, **(slurm if by == "slurm" else {})}
            return subprocess.Popen(arguments, stdout=log, stderr=log, env=environment)

    return start


@pytest.fixture
def ended(started, tmp_path):
    """The same, when it has ended: status, lines of the log, and seconds."""

    def run(by, *plan):
        began = time.monotonic()
        status = started(by, *plan).wait(timeout=60)
        return status, (tmp_path / "job.log").read_text().splitlines(), time.monotonic() - began

    return run


BOTH = pytest.mark.parametrize("by", ["here", "slurm"])


@BOTH
def test_all_end_well(ended, tmp_path, by):
    """What only one of them has to say is shown, and what all say once."""
    status, lines, _ = ended(by, "warn all+warn+say", "warn all+warn+say+wait")
    assert status == 0
    assert sorted(lines) == ["a warning of 0", "a warning of 1", "a warning of all", "process 0", "process 1"]
    assert list((tmp_path / "work").iterdir()) == []


@BOTH
@pytest.mark.parametrize("plan", [("input", "input"), ("hang", "input"), ("warn+input", "raise")])
def test_bad_input_is_told_once_as_by_a_single_process(ended, by, plan):
    status, lines, seconds = ended(by, *plan)
    assert status == 1
    assert [line for line in lines if "warn" not in line and "srun: " not in line] == [
        "error: a.nii.gz: file not found"
    ]
    assert lines[-1].startswith("error: ")
    assert seconds < 10


@BOTH
@pytest.mark.parametrize("plan", [("wait+raise", "raise"), ("hang", "raise")])
def test_of_several_failures_the_first_one_is_told(ended, tmp_path, by, plan):
    status, lines, seconds = ended(by, *plan)
    assert status == 1
    assert "RuntimeError: of 1" in lines
    assert lines.count("Traceback (most recent call last):") == 1
    assert last_error(tmp_path / "job.log") == lines[-1]
    assert lines[-1].startswith("error: rank 1 of 2 processes: RuntimeError: of 1")
    assert seconds < 10
    (kept,) = (tmp_path / "work").iterdir()
    assert str(kept) in lines[-1]
    assert (kept / "rank1.txt").read_text().endswith("RuntimeError: of 1\n")


@BOTH
def test_a_killed_one_ends_all_in_one_line(ended, tmp_path, by):
    status, lines, seconds = ended(by, "hang", "kill")
    assert status == 1
    (line,) = [line for line in lines if not line.startswith("srun: ")]
    told = {
        "here": "rank 1 of 2 processes was killed by SIGKILL, as when memory runs out",
        "slurm": "srun ended with status 137: a process was killed; srun says above which came first",
    }[by]
    assert line.startswith(f"error: {told}; all were ended")
    assert last_error(tmp_path / "job.log") == line
    assert seconds < 10


def test_a_rank_that_fails_of_a_killed_one_is_not_blamed(ended):
    """It would say that its connection was closed."""
    status, lines, _ = ended("here", "wait+raise", "kill")
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: rank 1 of 2 processes was killed by SIGKILL")


@BOTH
def test_a_silent_end_is_told_too(ended, by):
    status, lines, _ = ended(by, "hang", "7")
    assert status == 1
    who = {"here": "rank 1 of 2 processes", "slurm": "srun"}[by]
    assert lines[-1].startswith(f"error: {who} ended with status {7 if by == 'here' else 137}")


@BOTH
@pytest.mark.parametrize("status", [75, 143])
def test_a_training_that_stops_is_no_failure_and_its_first_process_may_save(ended, tmp_path, by, status):
    found, lines, seconds = ended(by, f"wait+say+stop+{status}", "0")
    assert found == status
    expected = ["process 0", "stopped at step 3 of 4, saved"]
    assert [line for line in lines if not line.startswith("srun: ")] == expected
    assert seconds > 1.2


@BOTH
def test_a_signal_reaches_all_and_is_no_failure(started, tmp_path, by):
    process = started(by, "say+wait+wait+wait", "say+wait+wait+wait")
    deadline = time.monotonic() + 30
    while (tmp_path / "job.log").read_text().count("process") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert "error: " not in (tmp_path / "job.log").read_text().replace("srun: error: ", "")


def test_one_that_ends_when_another_is_killed_has_not_stopped(ended):
    """Slurm ends it by SIGTERM, which gives the status of a training that was asked to stop."""
    status, lines, _ = ended("slurm", "wait", "kill")
    assert status == 1
    assert lines[-1].startswith("error: srun ended with status 143: a process was killed; srun says above which")


def test_what_slurm_is_asked_for(tmp_path, monkeypatch):
    """All of the job is for the step: what the batch script or an outer step was given does not limit it."""
    for name, value in install(tmp_path / "bin").items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_STEP_ID", "SLURM_CPU_BIND", "SRUN_DEBUG", "SBATCH_GRES"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("STAND_IN_RECORD", str(tmp_path / "record.json"))
    command = [sys.executable, "-c", "import os; print(os.environ['SLURM_PROCID'], os.environ['SLURM_LOCALID'])"]
    assert launch.by_slurm(command, 4, 2, 3, tmp_path / "work") == 0
    asked = json.loads((tmp_path / "record.json").read_text())
    (error,) = [argument for argument in asked["arguments"] if argument.startswith("--error=")]
    asked["arguments"].remove(error)
    assert asked["arguments"] == [
        "--overlap",
        "--nodes=2",
        "--ntasks=4",
        "--distribution=plane=2",
        "--cpus-per-task=3",
        "--kill-on-bad-exit=1",
        "--wait=0",
        "--input=none",
        *command,
    ]
    assert error.startswith(f"--error={tmp_path}/work/stderr-")
    assert error.endswith("/rank%t.txt")
    assert asked["environment"] == {
        "SLURM_JOB_ID": "71",
        "SLURM_JOBID": "71",
        "SLURM_CONF": "/etc/slurm/slurm.conf",
    }


def test_without_slurm_nodes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="nodes 2: this is no Slurm job: use --profile profiles/slurm"):
        launch.by_slurm(["true"], 4, 2, 1, tmp_path)
    monkeypatch.undo()
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="this is no Slurm job"):
        launch.by_slurm(["true"], 4, 2, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nodes", [None, 2])
def test_relaunch_runs_the_same_program_again(monkeypatch, nodes):
    called = []
    monkeypatch.setattr(launch, "here", lambda *arguments: called.append(arguments) or 75)
    monkeypatch.setattr(launch, "by_slurm", lambda *arguments: called.append(arguments) or 75)
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "dev", "a.py", "--b"])
    with pytest.raises(SystemExit) as error:
        distributed.relaunch(4, Path("work"), nodes, cpus=3)
    assert error.value.code == 75
    command = [sys.executable, "-X", "dev", "a.py", "--b"]
    assert called == [(command, 4, Path("work")) if nodes is None else (command, 4, 2, 3, Path("work"))]
