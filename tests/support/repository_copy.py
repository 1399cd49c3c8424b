"""A copy of the repository, so that tests may touch and change it, and Snakemake run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "config", "envs", "profiles", "src", "workflow")


@dataclass(frozen=True)
class Job:
    rule: str
    wildcards: dict[str, str]
    files: str  # its input, output, log and benchmark lines
    resources: dict[str, str]
    threads: int


@dataclass(frozen=True)
class Repository:
    root: Path

    def snakemake(self, *arguments: object, check: bool = True, **environment: str) -> str:
        """What Snakemake printed; ``check``: it must have succeeded, else it must have failed."""
        clean = {name: value for name, value in os.environ.items() if name != "DETPRETRAIN_REAL_DATA"}
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *map(str, arguments)],
            cwd=self.root,
            env={**clean, "PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) == check, done.stdout
        return done.stdout

    def planned(self, *arguments: object) -> list[Job]:
        """The jobs of a dry run."""
        return jobs_in(self.snakemake("-n", *arguments))

    def detpretrain(self, *arguments: object) -> str:
        """What a command of the package printed, on both streams; it must have succeeded."""
        code = "import sys; from detpretrain.cli import app; app(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def python(self, code: str, *arguments: object) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src")}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=True
        ).stdout


def jobs_in(plan: str) -> list[Job]:
    """The jobs that a dry run printed, without the rule that only names the targets."""
    blocks = re.split(r"^(?=(?:local)?rule \w+:$)", plan, flags=re.MULTILINE)[1:]
    jobs = [job for job in map(_job, blocks) if job.rule != "all"]
    assert jobs or "Nothing to be done" in plan, plan
    return jobs


def _job(block: str) -> Job:
    rule = re.match(r"(?:local)?rule (\w+):", block)[1]
    fields = dict(re.findall(r"^    (\w+): (.*)$", block, flags=re.MULTILINE))
    wildcards, resources = (_pairs(fields.get(name, "")) for name in ("wildcards", "resources"))
    files = " ".join(fields.get(name, "") for name in ("input", "output", "log", "benchmark"))
    return Job(rule, wildcards, files, resources, int(fields.get("threads", 1)))


def _pairs(line: str) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in line.split(", ") if pair)}


def copied(folder: Path) -> Repository:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    return Repository(folder)
