import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from slurm_stand_in import stand_in
from study_trees import ROOT, hold, smoke_study
from typer.testing import CliRunner

from detpretrain import slurm_queue, trainings, unlock
from detpretrain.cli import app
from detpretrain.errors import InputError
from detpretrain.files import write_json
from detpretrain.lock_file import process_start

RUN, OTHER, UNTOLD = (f"5ea0f6a8-0c1d-4e57-9a3b-00000000000{number}" for number in range(3))
COMMENT = "rule_finetune_wildcards_smoke_nodules_retina_unet_resenc_mae_0_0"
# a trainer: it saves when it is asked to end, or does not care
TRAINER = """
import signal, sys, time
from pathlib import Path
def save(*_):
    Path(sys.argv[1]).touch()
    if sys.argv[2] == "obey":
        sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A working directory with the repository's configuration, and a Snakemake that was killed in it."""
    folder = tmp_path / "root"
    (folder / ".snakemake" / "locks").mkdir(parents=True)
    (folder / ".snakemake" / "locks" / "0.output.lock").touch()
    for name in ("config", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def smoke(root, tmp_path):
    chosen, file = smoke_study(tmp_path)
    return chosen, ("--config", "config/smoke.yaml", "--config", str(file))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return stand_in(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def write_log(root, smoke):
    """``write_log(run)``: the log of a run of the smoke study, or of ``files``, that submitted jobs of this name."""
    own = [arguments for arguments in smoke[1] if arguments != "--config"]

    def write(run, files=own, host=None):
        folder = root / ".snakemake" / "log"
        folder.mkdir(exist_ok=True)
        named = ", ".join(f"PosixPath('{root / file}')" for file in files)
        head = f"  Host: {host or socket.gethostname()}\n  Config file(s): [{named}]\n"
        number = len(list(folder.iterdir()))
        (folder / f"2026-11-28T06000{number}.000000.snakemake.log").write_text(f"{head}\nSLURM run ID: {run}\n")

    return write


@pytest.fixture
def train(smoke, tmp_path):
    """``train(cell, behaviour)`` -> a process that holds the lock of the cell; where it saves to."""
    started = []

    def start(cell, behaviour="obey"):
        saved = tmp_path / f"saved{len(started)}"
        command = [sys.executable, "-c", TRAINER, str(saved), behaviour]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "up\n"
        hold(trainings.of_cell(smoke[0], cell), pid=process.pid, started=process_start(process.pid))
        return process, saved

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def unlocked(monkeypatch):
    """What Snakemake would have been asked to unlock."""
    asked = []
    monkeypatch.setattr(unlock, "remove_lock", lambda config, root: asked.append((list(map(str, config)), root)))
    return asked


def invoke(*arguments):
    result = CliRunner().invoke(app, ["unlock", *map(str, arguments)], env={"COLUMNS": "200"})
    return result, " ".join(result.stdout.split())


def test_jobs_are_the_study_s_whose_files_their_run_was_given(root, smoke, slurm, write_log):
    write_log(RUN)
    write_log(OTHER, ["config/demo.yaml"])
    for base, name in ((11, RUN), (12, OTHER), (13, UNTOLD), (14, "notebook")):
        slurm.submit(base, name, COMMENT, root)
    found = unlock.find(smoke[0], root)
    assert [job.shown for job in found.jobs] == ["11"]
    assert [(job.shown, whose) for job, whose in found.others] == [
        ("12", "of study demo"),
        ("13", unlock.UNKNOWN),
        ("14", unlock.NOBODY),
    ]


def test_run_whose_study_files_are_gone_is_of_an_unknown_study(root, smoke, slurm, write_log, tmp_path):
    write_log(RUN, ["config/smoke.yaml", str(tmp_path / "removed.yaml")])
    slurm.submit(11, RUN, COMMENT, root)
    found = unlock.find(smoke[0], root)
    assert (found.jobs, [whose for _, whose in found.others]) == ([], [unlock.UNKNOWN])


def test_without_yes_everything_is_listed_and_nothing_ends(root, smoke, slurm, write_log, train, unlocked):
    chosen, arguments = smoke
    write_log(RUN)
    write_log(OTHER, ["config/demo.yaml"], host="login-2")
    slurm.submit(11, RUN, COMMENT, root, used="3:04")
    slurm.submit(20, RUN, "rule_predict", root, shown="20_[2-6]", state="PENDING")
    slurm.submit(12, OTHER, COMMENT, root)
    process, saved = train(chosen.cells[0])
    write_json(trainings.of_cell(chosen, chosen.cells[0]).work / "progress.json", {"step": 7, "total": 12, "time": 9e9})
    hold(trainings.of_cell(chosen, chosen.cells[1]), host="node-9", pid=5)
    result, text = invoke(*arguments)
    assert result.exit_code == 0
    assert "Slurm 11 running 3:04 finetune smoke_nodules_retina_unet_resenc_mae_0_0" in text
    assert "Slurm 20_[2-6] pending 1:02 predict" in text
    assert f"process {process.pid} training {chosen.cells[0].path}, step 7 of 12" in text
    assert "Slurm 12 (finetune smoke_nodules_retina_unet_resenc_mae_0_0), running: of study demo: left alone" in text
    assert f"{chosen.cells[1].path}: trained by process 5 on node-9: cannot be ended from here" in text
    assert "the last Snakemake here was started on login-2: whether it still runs can be seen there only" in text
    assert result.stdout.splitlines()[-1] == "--yes ends what is in the table and removes Snakemake's lock"
    assert process.poll() is None
    assert not saved.exists()
    assert slurm.asked("scancel") == unlocked == []


def test_with_yes_jobs_and_trainings_end_before_the_directory_is_unlocked(
    root, smoke, slurm, write_log, train, unlocked
):
    chosen, arguments = smoke
    write_log(RUN)
    slurm.submit(11, RUN, COMMENT, root)
    slurm.submit(12, "notebook", "", root)
    process, saved = train(chosen.cells[0])
    result, text = invoke("--yes", *arguments)
    assert result.exit_code == 0, result.output
    assert slurm.asked("scancel") == ["-Q 11"]
    assert slurm.queued() == ["12"]
    assert saved.exists()
    assert process.wait(10) == 143
    assert unlocked == [([arguments[1], arguments[3]], root)]
    assert text.endswith("ended 1 jobs and 1 trainings, unlocked the directory")


def test_training_inside_of_a_job_is_ended_by_slurm_alone(root, smoke, slurm, write_log, train, unlocked):
    chosen, arguments = smoke
    write_log(RUN)
    slurm.submit(20, RUN, COMMENT, root, key=21, shown="20_1")
    process, saved = train(chosen.cells[0])
    hold(trainings.of_cell(chosen, chosen.cells[0]), pid=process.pid, started=process_start(process.pid), job="21")
    found = unlock.find(chosen, root)
    assert (len(found.jobs), found.trainers, found.elsewhere) == (1, [], [])
    assert invoke("--yes", *arguments)[0].exit_code == 0
    assert process.poll() is None
    assert not saved.exists()


def test_what_does_not_end_in_time_is_named_and_the_lock_stays(
    root, smoke, slurm, write_log, train, unlocked, monkeypatch
):
    chosen, arguments = smoke
    monkeypatch.setattr(slurm_queue, "PAUSES", (0.1,))
    write_log(RUN)
    slurm.submit(11, RUN, COMMENT, root)
    (slurm.folder / "stubborn").write_text("11\n")
    process, saved = train(chosen.cells[0], "ignore")
    result, _ = invoke("--yes", "--wait", 1, *arguments)
    assert result.exit_code == 1
    (told,) = result.stderr.splitlines()
    assert told.startswith(
        f"error: job 11, process {process.pid} still there after 1 seconds (scancel: scancel: error: "
    )
    assert saved.exists()
    assert unlocked == []


def test_job_of_somebody_else_is_refused_before_anything_ends(
    root, smoke, slurm, write_log, train, unlocked, monkeypatch
):
    chosen, arguments = smoke
    write_log(RUN)
    slurm.submit(11, RUN, COMMENT, root, user=4321)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    process, _ = train(chosen.cells[0])
    result, _ = invoke("--yes", *arguments)
    assert result.exit_code == 1
    assert "error: job 11 was submitted by the user of id 4321: only they can cancel it" in result.stderr
    assert process.poll() is None
    assert slurm.asked("scancel") == unlocked == []


def test_living_snakemake_is_refused_by_its_process(root, smoke, slurm, unlocked):
    program = root.parent / "snakemake"
    program.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, program], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            for option in ((), ("--yes",)):
                result, _ = invoke(*option, *smoke[1])
                assert result.exit_code == 1
                (told,) = result.stderr.splitlines()
                assert told.startswith(f"error: {root}: process {process.pid} is a Snakemake that works here")
        finally:
            process.kill()
    assert slurm.asked("squeue") == unlocked == []


def test_without_slurm_trainings_of_this_host_are_ended_all_the_same(root, smoke, train, unlocked, monkeypatch):
    monkeypatch.setattr(slurm_queue, "available", lambda: False)
    process, saved = train(smoke[0].cells[0])
    assert invoke("--yes", *smoke[1])[0].exit_code == 0
    assert process.wait(10) == 143
    assert saved.exists()
    assert len(unlocked) == 1


def test_where_nothing_runs_only_the_lock_is_left(smoke, slurm, unlocked):
    result, text = invoke(*smoke[1])
    assert result.exit_code == 0
    assert text.startswith("study smoke: no job and no training of it runs here")
    assert invoke("--yes", *smoke[1])[0].exit_code == 0
    assert len(unlocked) == 1


def test_process_that_has_got_the_id_of_a_trainer_is_not_signalled(smoke, train):
    process, saved = train(smoke[0].cells[0])
    gone = unlock.Trainer("x", socket.gethostname(), process.pid, process_start(process.pid) - 1.0, None)
    unlock.end(unlock.Leftovers([], [], [gone], []), smoke[0].results, 5.0)
    time.sleep(0.2)
    assert not saved.exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143


def test_snakemake_that_cannot_unlock_is_one_line(root, tmp_path):
    with pytest.raises(InputError, match=r"snakemake --unlock failed \(.+\): run it yourself"):
        unlock.remove_lock([tmp_path / "absent.yaml"], root)
