"""Studies that run, and dry runs, in copies of the repository."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from repository_copy import Repository, copied, jobs_in


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
