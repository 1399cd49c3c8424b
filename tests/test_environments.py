"""Every place that names a version names the same one: pyproject.toml, constraints.txt, envs/, the image, the README."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name as canonical

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)==([0-9][A-Za-z0-9.+!]*)")
TEXTS = ("README.md", "Makefile", "config/README.md", "envs/detpretrain.def", "profiles/cluster-generic/profile.yaml")
TOOLS = {"setuptools"}  # comes with pip's environments; pyproject.toml pins the one that builds
SECTIONS = {"arguments", "labels", "files", "post", "environment", "runscript", "test", "help"}


def pins(lines):
    """Canonical name -> version of lines ``name==version``; nothing else, and no name twice."""
    found = {}
    for line in lines:
        name, version = PIN.fullmatch(line).groups()
        assert canonical(name) not in found, f"{name} is named twice"
        found[canonical(name)] = version
    return found


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text().split())


def environment():
    """Dependencies of environment.yaml: conda's, and pip's."""
    listed = yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())["dependencies"]
    [pip] = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    return [entry for entry in listed if isinstance(entry, str)], pip


def needed(requirements):
    """Canonical names of what these requirements install here, themselves included, by the metadata of what is installed."""
    waiting, done, found = [Requirement(text) for text in requirements], set(), set()
    while waiting:
        one = waiting.pop()
        if (key := (canonical(one.name), frozenset(one.extras))) in done:
            continue
        done.add(key)
        found.add(key[0])
        for text in metadata.requires(one.name) or []:
            further = Requirement(text)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                waiting.append(further)
    return found - TOOLS


@pytest.mark.parametrize("group", ["dependencies", *PROJECT["optional-dependencies"]])
def test_the_project_s_pins_are_those_of_the_constraints(group):
    listed = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    found = pins(line for line in listed if not line.startswith("detpretrain["))
    assert found
    assert found == {name: CONSTRAINTS[name] for name in found}


def test_conda_s_environment_is_what_the_constraints_pin_of_what_the_project_needs():
    _, pip = environment()
    found = pins(pip)
    assert found == {name: CONSTRAINTS[name] for name in found}
    assert set(found) == needed(PROJECT["dependencies"])


def test_pip_is_handed_a_copy_of_conda_s_environment_so_it_names_no_file():
    conda, pip = environment()
    assert [line for line in pip if line.startswith(("-", ".", "/"))] == []
    assert "pip" in conda


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_environment_names_a_package_twice(path):
    listed = yaml.safe_load(path.read_text())["dependencies"]
    lines = [entry for entry in listed if isinstance(entry, str)]
    lines += [line for entry in listed if isinstance(entry, dict) for line in entry["pip"] if not line.startswith("-")]
    names = [canonical(re.match(r"[A-Za-z0-9_.-]+", line.rpartition("::")[2])[0]) for line in lines]
    assert sorted(names) == sorted(set(names))


def python_versions():
    conda, _ = environment()
    yield "environment.yaml", next(line.split("=")[1] for line in conda if line.startswith("python="))
    yield "detpretrain.def", definition()[0]["From"].split(":")[1].split("-")[0]


def test_environments_have_the_project_s_python():
    for place, version in python_versions():
        assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0"), place


@pytest.mark.parametrize("text", TEXTS)
def test_versions_in_texts_are_those_of_the_constraints(text):
    for name, version in PIN.findall((ROOT / text).read_text()):
        assert CONSTRAINTS[canonical(name)] == version, f"{text}: {name}=={version}"


def definition():
    """Header and sections (name -> lines) of the image's definition."""
    header, sections, lines = {}, {}, None
    for line in (ROOT / "envs" / "detpretrain.def").read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            assert name in SECTIONS, f"unknown section {name}"
            assert name not in sections, f"section {name} is there twice"
            lines = sections[name] = []
        elif lines is not None:
            lines.append(line)
        elif line.strip() and not line.startswith("#"):
            key, _, value = line.partition(":")
            header[key] = value.strip()
    return header, sections


def test_image_starts_from_a_public_one():
    header, sections = definition()
    assert set(header) == {"Bootstrap", "From"}
    assert header["Bootstrap"] == "docker"
    assert set(sections) == SECTIONS


def test_image_takes_files_that_are_there():
    _, sections = definition()
    for line in filter(str.strip, sections["files"]):
        source, target = line.split()
        assert (ROOT / source).exists(), source
        assert target == f"/opt/detpretrain/{source}"


def test_image_holds_all_that_its_installation_reads():
    taken = [line.split()[0] for line in filter(str.strip, definition()[1]["files"])]
    assert {"pyproject.toml", "constraints.txt", "src", PROJECT["readme"], *PROJECT["license-files"]} <= set(taken)


def test_every_argument_of_the_build_has_a_default():
    _, sections = definition()
    given = {line.strip().partition("=")[0] for line in filter(str.strip, sections["arguments"])}
    used = {name for lines in sections.values() for line in lines for name in re.findall(r"\{\{\s*(\w+)\s*\}\}", line)}
    assert used == given == {"torch_index"}


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_scripts_of_the_image_are_shell(name):
    text = "\n".join(definition()[1][name])
    assert text.strip()
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_package_of_the_image_is_held_to_the_constraints():
    installs = [line.strip() for line in definition()[1]["post"] if line.strip().startswith("pip install")]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)


def test_what_the_image_tests_passes_in_this_environment():
    """Its %test section, with the interpreter and the programs of this one."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    text = "\n".join(definition()[1]["test"])
    done = subprocess.run(["sh"], input=text, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    torch, snakemake = done.stdout.split("\n")[:2]
    assert torch.split("+")[0] == f"torch {CONSTRAINTS['torch']}"
    assert snakemake == CONSTRAINTS["snakemake"]
