import os
import signal
import threading
import time
from pathlib import Path

import pytest

from detpretrain.engines import command
from detpretrain.errors import InputError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """``program(script)``: the command ``tool`` on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{folder}")

    def make(script):
        (folder / "tool").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "tool").chmod(0o755)
        return folder

    return make


def run(tmp_path, *words, environment=None, **limits):
    command.run(["tool", *words], {**os.environ, **(environment or {})}, tmp_path / "logs" / "tool.log", **limits)


def test_output_of_both_streams_is_added_to_the_log(tmp_path, program):
    folder = program('echo "$1 $WORD ${PATH%%:*}"; echo second >&2')
    for number in (1, 2):
        run(tmp_path, number, environment={"WORD": "w"})
    lines = (tmp_path / "logs" / "tool.log").read_text().splitlines()
    assert lines == ["$ tool 1", f"1 w {folder}", "second", "$ tool 2", f"2 w {folder}", "second"]


def test_failure_is_one_line_with_the_log_and_what_was_said_last(tmp_path, program):
    program("echo first; printf '\\033[31mRuntimeError: out of memory\\033[0m\\n\\n'; exit 3")
    with pytest.raises(InputError) as error:
        run(tmp_path)
    log = tmp_path / "logs" / "tool.log"
    assert str(error.value) == f"{log}: tool ended with status 3: RuntimeError: out of memory"


def test_what_an_earlier_run_said_is_not_its_reason(tmp_path, program):
    program("echo of the first")
    run(tmp_path)
    program("exit 1")
    with pytest.raises(InputError, match="tool ended with status 1: it said nothing"):
        run(tmp_path)


def test_end_by_a_signal_is_a_failure(tmp_path, program):
    program("kill -9 $$")
    with pytest.raises(InputError, match="tool ended with status -9"):
        run(tmp_path)


def test_missing_executables_are_named_with_a_remedy(tmp_path, program):
    program("true")
    with pytest.raises(InputError, match=r"nndet_prep, nndet_train: not found on PATH: make its environment"):
        command.find(["nndet_prep", "tool", "nndet_train"])
    with pytest.raises(InputError, match="not found on PATH"):
        command.run(["nndet_train"], dict(os.environ), tmp_path / "log")
    assert not (tmp_path / "log").exists()


def gone(pid):
    """Within seconds; a process whose end nobody has asked for yet is gone too."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def child(tmp_path):
    """What a script has written of the process that it started."""
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        time.sleep(0.01)
    return int((tmp_path / "pid").read_text())


FAMILY = 'sleep 600 & echo $! > "$1/pid"; wait'


def test_time_is_up(tmp_path, program):
    program(FAMILY)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, tmp_path, deadline=time.monotonic() + 0.3)
    assert ended.value.code == 75
    assert gone(child(tmp_path))


def test_sigterm_ends_the_command_and_all_that_it_started(tmp_path, program):
    program(FAMILY)
    before = signal.getsignal(signal.SIGTERM)

    def terminate():
        child(tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=terminate)
    helper.start()
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, tmp_path)
    helper.join()
    assert ended.value.code == 143
    assert gone(child(tmp_path))
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_a_command_leaves_behind_is_ended(tmp_path, program):
    program('sleep 600 & echo $! > "$1/pid"')
    run(tmp_path, tmp_path)
    assert gone(child(tmp_path))
