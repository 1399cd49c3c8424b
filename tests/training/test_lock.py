import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from detpretrain import lock_file, trainers
from detpretrain.errors import InputError
from detpretrain.training import lock
from detpretrain.training.lock import CellLock, process_start

HERE = socket.gethostname()


def hold(folder, **changes):
    """A lock file as some process left it; by default this process, alive."""
    folder.mkdir(exist_ok=True)
    holder = {"host": HERE, "pid": os.getpid(), "started": process_start(os.getpid()), "job": None} | changes
    (folder / "lock.json").write_text(json.dumps(holder))
    return folder / "lock.json"


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_lock_names_its_holder_and_goes_away(tmp_path):
    with CellLock(tmp_path / "cell") as held:
        holder = json.loads(held.path.read_text())
        assert (holder["host"], holder["pid"]) == (HERE, os.getpid())
        assert holder["started"] == process_start(os.getpid())
        assert sorted(os.listdir(tmp_path / "cell")) == ["lock.json", "trainers.json"]
    assert os.listdir(tmp_path / "cell") == ["trainers.json"]


def test_lock_goes_away_with_an_exception(tmp_path):
    with pytest.raises(SystemExit), CellLock(tmp_path):
        raise SystemExit(75)
    assert not (tmp_path / "lock.json").exists()


def test_live_holder_is_refused_and_keeps_its_lock(tmp_path):
    path = hold(tmp_path)
    before = path.read_text()
    with pytest.raises(InputError, match=f"process {os.getpid()} on {HERE} is training this cell") as error:
        CellLock(tmp_path).__enter__()
    assert "\n" not in str(error.value)
    assert path.read_text() == before


@pytest.mark.parametrize("changes", [{"started": 1.0}, {"pid": None}], ids=["reused id", "dead"])
def test_dead_holder_on_this_host_is_taken_over_at_once(tmp_path, changes):
    if "pid" in changes:
        changes = {"pid": dead_pid()}
    path = hold(tmp_path, **changes)
    began = time.monotonic()
    with CellLock(tmp_path):
        assert json.loads(path.read_text())["started"] == process_start(os.getpid())
    assert time.monotonic() - began < 1
    assert os.listdir(tmp_path) == ["trainers.json"]


def test_zombie_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.3)  # ended, not waited for
    try:
        assert process_start(process.pid) is None
    finally:
        process.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "7"])
def test_file_that_is_no_lock_is_taken_over(tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    with CellLock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_other_host_is_respected_until_its_heartbeat_is_stale(tmp_path):
    path = hold(tmp_path, host="elsewhere", pid=4)
    with pytest.raises(InputError, match="process 4 on elsewhere"):
        CellLock(tmp_path).__enter__()
    beat = time.time() - lock_file.STALE_SECONDS - 1
    os.utime(path, (beat, beat))
    with CellLock(tmp_path):
        assert json.loads(path.read_text())["host"] == HERE


@pytest.mark.parametrize(("answer", "alive"), [("echo RUNNING", True), ("true", False)])
def test_scheduler_decides_about_another_host(tmp_path, monkeypatch, answer, alive):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\n[ "$3" = 42 ] && {answer}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    path = hold(tmp_path / "cell", host="elsewhere", job="42")
    assert lock.is_alive(json.loads(path.read_text()), path) is alive


def test_what_a_requeued_job_left_on_another_host_is_dead(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    path = tmp_path / "lock.json"
    path.write_text("{}")
    alive = {"host": "elsewhere", "pid": 1, "started": 1.0}
    assert not lock.is_alive({**alive, "job": "77"}, path, ask=lambda job: True)
    assert lock.is_alive({**alive, "job": "78"}, path, ask=lambda job: True)


@pytest.mark.parametrize(
    ("error", "noted"), [(None, False), (SystemExit(75), False), (MemoryError(), True), (RuntimeError("worker"), None)]
)
def test_batch_job_notes_how_it_ended(tmp_path, monkeypatch, error, noted):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with contextlib.suppress(RuntimeError, MemoryError, SystemExit), CellLock(tmp_path):
        if error is not None:
            raise error
    (trainer,) = trainers.read(tmp_path)
    assert (trainer["job"], trainer["out_of_memory"]) == ("77", noted)
    assert trainer["pid"] == os.getpid()
    assert trainer["since"] <= trainer["until"]


def test_job_that_the_scheduler_has_forgotten_is_dead(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = hold(tmp_path / "cell", host="elsewhere", job="42")
    assert lock.is_alive(json.loads(path.read_text()), path) is False


def test_heartbeat_renews_our_lock_and_leaves_another_holder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    began = time.time()
    with CellLock(tmp_path) as held:
        first = json.loads(held.path.read_text())
        time.sleep(0.2)
        later = json.loads(held.path.read_text())
        assert later["heartbeat"] > first["heartbeat"]
        assert began <= later["since"] == first["since"] <= time.time()
        held._stop.set()  # from here on beats are ours to make: one could have looked just before the lock changed hands
        held._beat.join()
        hold(tmp_path, host="elsewhere")  # took a lock that looked stale to it
        held._renew()
        assert json.loads(held.path.read_text())["host"] == "elsewhere"
    assert held.path.exists()


RACER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from detpretrain.errors import InputError
    from detpretrain.training.lock import CellLock
    folder, start, delay = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    is_alive, judged = __import__("detpretrain.training.lock", fromlist=["x"]).is_alive, []
    def slow(holder, path):
        alive = is_alive(holder, path)
        if not judged:  # others act between the judgement and what follows from it
            judged.append(holder)
            time.sleep(delay)
        return alive
    __import__("detpretrain.training.lock", fromlist=["x"]).is_alive = slow
    print("ready", flush=True)
    while not start.exists():
        time.sleep(0.001)
    try:
        with CellLock(folder):
            print("won", flush=True)
            sys.stdin.readline()
    except InputError:
        print("refused", flush=True)
""")


def test_of_those_that_race_for_a_dead_lock_one_wins(tmp_path):
    hold(tmp_path / "cell", pid=dead_pid())
    start = tmp_path / "start"
    delays = [0.0, 0.1, 0.3, 0.3]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, tmp_path / "cell", start, str(delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for delay in delays
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * len(racers)
    start.touch()
    outcomes = [racer.stdout.readline().strip() for racer in racers]
    for racer in racers:
        racer.communicate("\n", timeout=30)
    assert sorted(outcomes) == ["refused", "refused", "refused", "won"]
    assert os.listdir(tmp_path / "cell") == ["trainers.json"]


def test_claim_of_a_process_that_died_while_it_removed_a_dead_lock_is_forgotten(tmp_path):
    path = hold(tmp_path, pid=dead_pid())
    holder = json.loads(path.read_text())
    claim = tmp_path / f"lock-{HERE}-{holder['pid']}-{holder['started']}.dead"
    claim.touch()
    old = time.time() - lock.CLAIM_SECONDS - 1
    os.utime(claim, (old, old))
    with CellLock(tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["lock.json", "trainers.json"]
