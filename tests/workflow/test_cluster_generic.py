"""The profile for PBS and LSF, with stand-ins for the programs of the schedulers."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "profiles" / "cluster-generic"
NEEDS_PLUGIN = pytest.mark.skipif(
    find_spec("snakemake_executor_plugin_cluster_generic") is None, reason="the plugin is not installed: [hpc]"
)

# A scheduler in a folder: starts a job in the background and keeps its exit status. `last` is the job script.
SUBMIT = """#!/bin/sh
cd {folder}
number=$(( $(ls | grep -c called) + 1 ))
printf '%s\\n' "$@" > "$number.called"
for last; do :; done
cd "$OLDPWD"
(
    sh "$last" > {folder}/$number.out 2>&1
    echo $? > {folder}/$number.tmp
    mv {folder}/$number.tmp {folder}/$number.status
) > /dev/null 2>&1 &
echo {answer}
"""
QSTAT = """#!/bin/sh
test "$1 $2" = "-x -f" || exit 2
number=${{3%.server}}
echo "Job Id: $3"
if [ -e {folder}/$number.status ]; then
    printf '    job_state = F\\n    Exit_status = %s\\n' $(cat {folder}/$number.status)
else
    echo "    job_state = R"
fi
"""
BJOBS = """#!/bin/sh
test "$1 $2 $3" = "-noheader -o stat" || exit 2
if [ ! -e {folder}/$4.status ]; then echo RUN; elif [ $(cat {folder}/$4.status) = 0 ]; then echo DONE; else echo EXIT; fi
"""
PROGRAMS = {
    "pbs": {"qsub": SUBMIT.replace("{answer}", "$number.server"), "qstat": QSTAT},
    "lsf": {
        "bsub": SUBMIT.replace("{answer}", '"Job <$number> is submitted to default queue <normal>."'),
        "bjobs": BJOBS,
    },
}
SNAKEFILE = """
rule all:
    input: "good.txt", "bad.txt"
    localrule: True

rule good:
    output: "good.txt"
    threads: 3
    resources: mem_mb=1500, runtime=90, gpu=2
    shell: "echo {resources.mem_mb} > {output}"

rule bad:
    output: "bad.txt"
    shell: "false"
"""


def install(folder, programs):
    """Programs in ``folder/bin``, and an environment that finds them first."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def profile(scheduler):
    """Text of the profile; LSF's three keys are comments in it, in place of those of PBS."""
    text = (PROFILE / "profile.yaml").read_text()
    if scheduler == "pbs":
        return text
    pbs, lsf = (text.index(f"{mark}cluster-generic-submit-cmd") for mark in ("\n", "# "))
    before, own, after = text[:pbs], text[lsf:].partition("\n\n")[0], text[lsf:].partition("\n\n")[2]
    return "\n\n".join([before, re.sub("^# ", "", own, flags=re.MULTILINE), after])


@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
def test_profile_says_how_to_submit_ask_and_cancel(scheduler):
    found = yaml.safe_load(profile(scheduler))
    cancel = {"pbs": "qdel", "lsf": "bkill"}[scheduler]
    assert found["cluster-generic-cancel-cmd"] == cancel  # a program alone: no shell reads it
    assert found["cluster-generic-status-cmd"] == f"profiles/cluster-generic/status.sh {scheduler}"
    assert set(found["default-resources"]) == {"gpu", "mem_mb", "runtime"}  # what the submission names


@pytest.mark.slow
@NEEDS_PLUGIN
@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
def test_jobs_go_through_the_scheduler_with_their_resources(tmp_path, scheduler):
    (tmp_path / "scheduler").mkdir()
    programs = {name: text.format(folder=tmp_path / "scheduler") for name, text in PROGRAMS[scheduler].items()}
    environment = install(tmp_path, programs)
    shutil.copytree(PROFILE, tmp_path / "profiles" / "cluster-generic")
    (tmp_path / "profiles" / "cluster-generic" / "profile.yaml").write_text(profile(scheduler))
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/cluster-generic", "--retries", "0"]
    command += ["--seconds-between-status-checks", "1", "--latency-wait", "5"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert (tmp_path / "good.txt").read_text() == "1500\n", said
    assert "Error in rule bad" in said
    assert "Error in rule good" not in said
    calls = {}
    for path in (tmp_path / "scheduler").glob("*.called"):
        words = path.read_text().splitlines()
        calls[words[words.index({"pbs": "-N", "lsf": "-J"}[scheduler]) + 1]] = words[:-1]
    assert set(calls) == {"good", "bad"}
    if scheduler == "pbs":
        assert calls["good"][-4:] == ["-l", "select=1:ncpus=3:mem=1500mb:ngpus=2", "-l", "walltime=5400"]
        assert calls["bad"][-4:] == ["-l", "select=1:ncpus=1:mem=4000mb:ngpus=0", "-l", "walltime=3600"]
    else:
        asked = ["-n", "3", "-W", "90", "-R", "span[hosts=1] rusage[mem=1500]", "-gpu", "num=2"]
        assert calls["good"][-len(asked) :] == asked
        assert "-gpu" not in calls["bad"]


@pytest.mark.parametrize(
    ("scheduler", "answer", "status", "expected"),
    [
        ("pbs", "    job_state = Q\n", 0, "running"),
        ("pbs", "    job_state = E\n    Exit_status = 0\n", 0, "running"),
        ("pbs", "    job_state = F\n    Exit_status = 0\n", 0, "success"),
        ("pbs", "    job_state = F\n    Exit_status = 1\n", 0, "failed"),
        ("pbs", "    job_state = F\n    Exit_status = -29\n", 0, "failed"),  # over its walltime
        ("pbs", "    job_state = F\n", 0, "failed"),  # deleted before it began
        ("pbs", "qstat: Unknown Job Id 7.server\n", 153, "success"),
        ("pbs", "qstat: cannot connect to server\n", 1, "running"),
        ("lsf", "PEND\n", 0, "running"),
        ("lsf", "UNKWN\n", 0, "running"),
        ("lsf", "DONE\n", 0, "success"),
        ("lsf", "EXIT\n", 0, "failed"),
        ("lsf", "Job <7> is not found\n", 255, "success"),
        ("lsf", "Failed in LSF library call: LIM is down; try later\n", 255, "running"),
    ],
)
def test_status_of_a_job(tmp_path, scheduler, answer, status, expected):
    (tmp_path / "answer").write_text(answer)
    text = f"#!/bin/sh\ncat {tmp_path / 'answer'} {'>&2' if status else ''}\nexit {status}\n"
    environment = install(tmp_path, {{"pbs": "qstat", "lsf": "bjobs"}[scheduler]: text})
    command = [PROFILE / "status.sh", scheduler, "7.server"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")


def test_unknown_scheduler_is_one_line():
    done = subprocess.run([PROFILE / "status.sh", "sge", "7"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "status.sh: unknown scheduler 'sge': give pbs or lsf\n"
