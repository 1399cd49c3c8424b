"""Environments of the rules' own: with stand-ins for apptainer and conda that run a job as the real ones would be told to."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

SMOKE = ("--configfile", "config/smoke.yaml")
HOST = str(Path(sys.executable).parent)

# says how it was called, then runs the command with the programs "of the image" first
APPTAINER = """#!/bin/sh
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit; fi
{python} -c 'import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], "w"))' {told} "$@"
unset PYTHONPATH
while [ "$1" != bash ]; do shift; done
PATH={image}:/usr/bin:/bin exec "$@"
"""
CONDA = """#!/bin/sh
case "$*" in
    "info --json") echo '{{"conda_prefix": "{base}", "platform": "linux-64"}}' ;;
    --version) echo "conda 25.1.0" ;;
    "clean "*) ;;
    "config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    "env create "*)
        while [ $# -gt 0 ]; do
            case "$1" in --file) file=$2 ;; --prefix) prefix=$2 ;; esac
            shift
        done
        cat "$file" >> {told}
        mkdir -p "$prefix/bin"
        cp {image}/python "$prefix/bin/python" ;;
    *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""
# a python that says that it was this one, and with which source
PYTHON = """#!/bin/sh
echo "$PYTHONPATH $PYTHONNOUSERSITE" >> {used}
exec {python} "$@"
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a program on the PATH, and a python that only it leads to; gives the files that tell what they were told."""
    names = {name: tmp_path / name for name in ("told", "used", "image", "base")}
    executable(names["image"] / "python", PYTHON.format(python=sys.executable, **names))
    executable(names["base"] / "bin" / "activate", 'PATH="$1/bin:/usr/bin:/bin"\n')

    def put(name, text):
        executable(tmp_path / "bin" / name, text.format(python=sys.executable, **names))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        return names["told"], names["used"]

    return put


@pytest.fixture
def image(repository):
    path = repository.root / "envs" / "detpretrain.sif"
    path.touch()
    yield path
    path.unlink()


@pytest.fixture
def place(tmp_path):
    """A small file of the smoke study, whose study file, results and data lie elsewhere, and the arguments that name it."""
    for name in ("studies", "results", "fast"):
        (tmp_path / name).mkdir()
    data, file = tmp_path / "fast" / "data", tmp_path / "studies" / "place.yaml"
    file.write_text(f"pathvars: {{results: {tmp_path / 'results'}, data: {data}}}\n")
    return data / "smoke_nodules" / "task" / "splits.json", (*SMOKE, file)


def source_of(repository):
    return f"{repository.root / 'src'} 1\n"


@pytest.mark.slow
def test_a_job_runs_in_the_image_with_the_source_of_the_checkout(repository, stand_in, image, place, tmp_path):
    told, used = stand_in("apptainer", APPTAINER)
    target, study = place
    repository.snakemake("-c1", target, *study, "--sdm", "apptainer")
    assert json.loads(target.read_text())["folds"]
    arguments, environment = json.loads(told.read_text())
    assert arguments[:3] == ["exec", "--home", str(repository.root)]
    assert arguments[-4:-1] == ["envs/detpretrain.sif", "bash", "-c"]
    shown = environment["APPTAINER_BIND"].split(",")
    assert {str(tmp_path / name) for name in ("studies", "results", "fast")} <= set(shown)
    assert HOST not in arguments[-1]
    assert f"SCRIPTS={repository.root}/workflow/scripts" in arguments[-1]
    assert used.read_text() == source_of(repository)


def test_without_an_image_the_run_ends_in_one_line(repository, stand_in, place):
    stand_in("apptainer", APPTAINER)
    text = repository.snakemake("-n", place[0], *place[1], "--sdm", "apptainer", check=False)
    (told,) = [line for line in text.splitlines() if "image not found" in line]
    assert told.strip().startswith("envs/detpretrain.sif: image not found: build it (envs/detpretrain.def says how)")
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_job_runs_in_conda_s_environment_with_the_source_of_the_checkout(repository, stand_in, place):
    told, used = stand_in("conda", CONDA)
    target, study = place
    repository.snakemake("-c1", target, *study, "--sdm", "conda")
    assert json.loads(target.read_text())["folds"]
    listed = yaml.safe_load((repository.root / "envs" / "environment.yaml").read_text())
    assert yaml.safe_load(told.read_text()) == listed  # once: every rule has the same environment
    assert used.read_text() == source_of(repository)


def test_two_kinds_of_environment_at_once_are_refused(repository, stand_in, image, place):
    stand_in("apptainer", APPTAINER)
    stand_in("conda", CONDA)
    text = repository.snakemake("-n", place[0], *place[1], "--sdm", "conda", "apptainer", check=False)
    assert "give one of them, the image holds the packages" in text
