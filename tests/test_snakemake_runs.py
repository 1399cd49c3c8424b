import subprocess
import sys
import time

import pytest

from detpretrain import snakemake_runs
from detpretrain.snakemake_runs import is_snakemake, last_run, locked, slurm_runs

RUN, OTHER = "5ea0f6a8-0c1d-4e57-9a3b-0123456789ab", "cells_5ea0f6a8-0c1d-4e57-9a3b-ba9876543210"
# as Snakemake 9.27 writes it
LOG = """Assuming unrestricted shared filesystem usage.

SNAKEMAKE
=========
  Date: 2026-11-28 06:19:29
  Workflow ID: 18a65278-1413-4ff0-a998-aa48486c4ac8
  Host: {host}
  User: somebody
  Snakemake version: 9.27.1
  Command: .venv/bin/snakemake --profile profiles/slurm
  Working directory: /somewhere
  Config file(s): [{files}]
  Config MD5: 6a35c7fdcb55d60b6edb28c3db7366f2

Building DAG of jobs...
{more}Using shell: /usr/bin/bash
"""


@pytest.fixture
def write_log(tmp_path):
    def write(time, host="here", files="'config/demo.yaml'", run=None):
        path = tmp_path / ".snakemake" / "log" / f"2026-11-28T{time}.snakemake.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LOG.format(host=host, files=files, more=f"SLURM run ID: {run}\n" if run else ""))

    return write


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("snakemake -c2", True),
        ("/a/bin/python3.11 /a/bin/snakemake -c2 --configfile x.yaml", True),
        ("/a/bin/python -m snakemake --profile profiles/slurm", True),
        ("python -X dev -u -m snakemake -n", True),
        ("python /a/site-packages/snakemake/__main__.py -c1", True),
        ("python -m snakemake --snakefile S --executor slurm-jobstep --mode remote", False),
        ("python -m snakemake --mode subprocess --cores 1", False),
        ("python -m snakemake --mode default", True),
        ("python -c import(snakemake) snakemake", False),
        ("python -m detpretrain.snakemake_runs", False),
        ("python workflow/scripts/finetune.py --snakemake", False),
        ("vim snakemake", False),
        ("python", False),
        ("", False),
    ],
)
def test_command_lines(command, expected):
    assert is_snakemake(command.split()) is expected


def test_living_process_of_the_directory_is_found_and_no_other(tmp_path):
    program = tmp_path / "snakemake"
    program.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, str(program), "-c2"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "up\n"
            assert snakemake_runs.processes(here) == [process.pid]
            (tmp_path / "link").symlink_to(here)
            assert snakemake_runs.processes(tmp_path / "link") == [process.pid]
            assert snakemake_runs.processes(tmp_path) == []
        finally:
            process.kill()
    time.sleep(0.01)
    assert snakemake_runs.processes(here) == []


def test_lock_is_a_file_in_its_folder(tmp_path):
    assert not locked(tmp_path)
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    assert not locked(tmp_path)
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").touch()
    assert locked(tmp_path)


def test_last_run_is_that_of_the_newest_log(tmp_path, write_log):
    assert last_run(tmp_path) is None
    write_log("061900.000001", "first")
    write_log("071900.000001", "second", "PosixPath('/a/smoke.yaml'), PosixPath('/b/place.yaml')")
    found = last_run(tmp_path)
    assert found.host == "second"
    assert list(map(str, found.files)) == ["/a/smoke.yaml", "/b/place.yaml"]


def test_runs_are_found_by_the_name_of_their_jobs(tmp_path, write_log):
    write_log("050000.000001", files="'config/paper.yaml'", run=OTHER)
    write_log("060000.000001", files="'config/demo.yaml'", run=RUN)
    write_log("070000.000001", files="'config/grid.yaml'")
    assert slurm_runs(tmp_path, set()) == {}
    found = slurm_runs(tmp_path, {RUN, OTHER, "unknown"})
    assert {name: [str(file) for file in run.files] for name, run in found.items()} == {
        RUN: ["config/demo.yaml"],
        OTHER: ["config/paper.yaml"],
    }


def test_log_that_names_no_study_tells_nothing(tmp_path, write_log):
    write_log("050000.000001", run=RUN)
    path = next((tmp_path / ".snakemake" / "log").iterdir())
    path.write_text(path.read_text().replace("Config file(s)", "Something else"))
    assert last_run(tmp_path) is None
    assert slurm_runs(tmp_path, {RUN}) == {}
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes())
    assert last_run(tmp_path) is None
