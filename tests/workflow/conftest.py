"""A copy of the repository, so that tests may touch and change it, and Snakemake run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "config", "envs", "profiles", "src", "workflow")


@dataclass(frozen=True)
class Job:
    rule: str
    wildcards: dict[str, str]
    files: str  # its input, output, log and benchmark lines


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
    pairs = [pair.partition("=") for pair in fields.get("wildcards", "").split(", ") if pair]
    files = " ".join(fields.get(name, "") for name in ("input", "output", "log", "benchmark"))
    return Job(rule, {name: value for name, _, value in pairs}, files)


def copied(folder: Path) -> Repository:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    return Repository(folder)


@pytest.fixture(scope="session")
def count():
    """``count(jobs)`` -> number of jobs by rule."""
    return lambda jobs: Counter(job.rule for job in jobs)


@pytest.fixture(scope="session")
def planned_by():
    """``planned_by(text)`` -> the jobs of a dry run that something else started."""
    return jobs_in


@pytest.fixture(scope="session")
def copy_repository():
    """``copy_repository(folder)`` -> a copy there, for a test that changes its configuration."""
    return copied


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Repository:
    """A copy without results: for dry runs."""
    return copied(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Repository, Path, tuple[str, ...]]:
    """A finished smoke study: the copy it ran in, its results folder (elsewhere), and the arguments that name the study."""
    repository = copied(tmp_path_factory.mktemp("finished"))
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "place.yaml").write_text(f"pathvars: {{results: {place / 'results'}}}\n")
    study = ("--configfile", "config/smoke.yaml", str(place / "place.yaml"))
    repository.snakemake("-c2", *study)
    return repository, place / "results", study
