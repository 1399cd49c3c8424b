"""A program in place of Slurm 22.05's srun: starts the tasks of a step on this machine, with the variables that they would see.

It knows the options that a training uses, refuses others, and ends as srun does: with the highest exit status, 128 + n for a task
that signal n ended; with --kill-on-bad-exit the first bad exit ends all tasks, by SIGTERM and, KILL_WAIT seconds later, SIGKILL.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

KILL_WAIT = 0.5
SUBMITTED = ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_CPU_BIND", "SLURM_MEM_PER_NODE", "SLURM_STEP_ID")


def install(folder: Path) -> dict[str, str]:
    """Puts ``srun`` and ``scontrol`` into a folder; returns the variables that a batch script of two nodes has, PATH included."""
    folder.mkdir()
    programs = {
        "srun": f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n',
        "scontrol": '#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "localhost\\nlocalhost\\n"\n',
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "71", "SLURM_JOBID": "71", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_PROCID": "0"}
    batch = {"SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_MEM_PER_NODE": "32000"}
    return {**job, **batch, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="srun", allow_abbrev=False)
    for name in ("nodes", "ntasks", "cpus-per-task", "kill-on-bad-exit", "wait"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--distribution", required=True)
    parser.add_argument("--input", choices=["none"])
    parser.add_argument("--error", required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(arguments)


def variables(task: int, options: argparse.Namespace) -> dict[str, str]:
    layout, _, size = options.distribution.partition("=")
    assert layout == "plane"
    per_node = int(size)
    assert per_node * options.nodes == options.ntasks, "tasks do not lie evenly"
    nodes = f"node[1-{options.nodes}]"
    values = {
        "SLURM_PROCID": task,
        "SLURM_LOCALID": task % per_node,
        "SLURM_NODEID": task // per_node,
        "SLURM_NTASKS": options.ntasks,
        "SLURM_NPROCS": options.ntasks,
        "SLURM_NNODES": options.nodes,
        "SLURM_JOB_NUM_NODES": options.nodes,
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NODELIST": nodes,
        "SLURM_TASKS_PER_NODE": f"{per_node}(x{options.nodes})",
        "SLURM_CPUS_PER_TASK": options.cpus_per_task,
        "SLURM_STEP_ID": 3,
        "SLURM_STEPID": 3,
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_NODES": options.nodes,
        "SLURM_STEP_NUM_TASKS": options.ntasks,
        "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{options.nodes})",
    }
    return {name: str(value) for name, value in values.items()}


def start(options: argparse.Namespace) -> list[subprocess.Popen]:
    tasks = []
    for task in range(options.ntasks):
        with open(options.error.replace("%t", str(task)), "wb") as error:
            environment = {**os.environ, **variables(task, options)}
            tasks.append(subprocess.Popen(options.command, stdin=subprocess.DEVNULL, stderr=error, env=environment))
    return tasks


def main() -> int:
    if record := os.environ.get("STAND_IN_RECORD"):
        slurm = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SRUN_", "SBATCH_"))}
        Path(record).write_text(json.dumps({"arguments": sys.argv[1:], "environment": slurm}))
    left = [name for name in SUBMITTED if name in os.environ]
    assert "SLURM_JOB_ID" in os.environ, "srun would wait for an allocation of its own"
    assert not left, f"srun would take {left} for the step's"
    options = parsed(sys.argv[1:])
    tasks, killed_at = start(options), float("inf")
    signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
    while None in [task.poll() for task in tasks]:
        for number, task in enumerate(tasks):
            if task.returncode and killed_at == float("inf") and options.kill_on_bad_exit:
                print(f"srun: error: node{number + 1}: task {number}: {task.returncode}", file=sys.stderr)
                killed_at = time.monotonic() + KILL_WAIT
                for other in tasks:
                    other.terminate()
        if time.monotonic() > killed_at:
            for task in tasks:
                task.kill()
        time.sleep(0.02)
    return max(128 - task.returncode if task.returncode < 0 else task.returncode for task in tasks)


if __name__ == "__main__":
    sys.exit(main())
