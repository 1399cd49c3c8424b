"""Python, the packages against their pins, what Snakemake needs for a profile, and the executables of engines."""

from __future__ import annotations

import importlib.util
import platform
import tomllib
from importlib import metadata
from pathlib import Path

from detpretrain import engine_entries
from detpretrain.doctor.finding import BLOCKS, WARNING, Finding
from detpretrain.engines import nndet_task
from detpretrain.errors import InputError
from detpretrain.files import read_yaml
from detpretrain.study import Study

INSTALL = "pip install -c constraints.txt -e ."
LOCAL = ("local", "dryrun", "touch")  # executors that Snakemake brings
PROFILE_FILES = ("profile*.yaml", "config*.yaml")


def python(root: Path) -> Finding:
    """The interpreter against ``requires-python``, of which every part is ``>=`` or ``<``."""
    wanted = _project(root)["requires-python"]
    version = tuple(map(int, platform.python_version_tuple()[:2]))
    fits = True
    for part in wanted.split(","):
        limit = tuple(map(int, part.strip().lstrip("<>=").split(".")))
        fits &= version < limit if part.strip().startswith("<") else version >= limit
    found = f"{platform.python_version()} (wanted {wanted})"
    return Finding("Python", found) if fits else Finding("Python", found, BLOCKS, "make a virtual environment with it")


def packages(root: Path) -> list[Finding]:
    """One line for all packages that are as pinned, and one for each that is not."""
    pins = dict(line.split("==") for line in _project(root)["dependencies"])
    found = [_package(name, pin) for name, pin in pins.items()]
    wrong = [finding for finding in found if finding]
    same = Finding("packages as pinned", f"{len(pins) - len(wrong)} of {len(pins)}", WARNING if wrong else "ok")
    return [same, *wrong]


def _package(name: str, pin: str) -> Finding | None:
    try:
        installed = metadata.version(name).partition("+")[0]  # the build of torch is the machine's business
    except metadata.PackageNotFoundError:
        return Finding(name, f"not installed (pinned {pin})", BLOCKS, INSTALL)
    if installed == pin:
        return None
    return Finding(name, f"{installed} installed, {pin} pinned", WARNING, f"{INSTALL}: results may differ")


def executor(profile: Path | None) -> str:
    """The executor that a profile folder names; ``local`` without one.

    Raises:
        InputError: the folder holds no profile.
    """
    if profile is None:
        return "local"
    files = sorted(path for pattern in PROFILE_FILES for path in profile.glob(pattern))
    if not files:
        raise InputError(f"{profile}: no profile.yaml in it: name the folder that --profile of snakemake gets")
    return str(read_yaml(files[0]).get("executor", "local"))


def snakemake(profile: Path | None) -> list[Finding]:
    """Snakemake's version and whether the plugin of the profile's executor can be imported."""
    try:
        version = Finding("Snakemake", metadata.version("snakemake"))
    except metadata.PackageNotFoundError:
        version = Finding("Snakemake", "not installed", BLOCKS, INSTALL)
    name = executor(profile)
    where = f"{name} ({profile})" if profile else f"{name} (no --profile given)"
    if name in LOCAL:
        return [version, Finding("executor", where)]
    plugin = f"snakemake_executor_plugin_{name.replace('-', '_')}"
    if importlib.util.find_spec(plugin) is None:
        remedy = f"pip install snakemake-executor-plugin-{name}"
        return [version, Finding("executor", f"{where}: its plugin is not installed", BLOCKS, remedy)]
    return [version, Finding("executor", where)]


def engines(study: Study, executor: str) -> list[Finding]:
    """Per engine that the study's detectors name: its executables, and whether it can work in the results folder.

    With an ``executor`` of a cluster, what is missing here may be there: a warning.
    """
    found = []
    for engine in sorted({study.engine(row.detector) for row in study.rows} - {None}):
        folder = study.config["runtime"].get("engines", {}).get(engine)
        names = engine_entries.EXECUTABLES[engine]
        missing = [name for name in names if engine_entries.executable(name, folder) is None]
        where = folder or "PATH"
        if missing:
            state = BLOCKS if executor in LOCAL else WARNING
            text = f"not found in {where}: {', '.join(missing)}"
            found.append(Finding(f"engine {engine}", text, state, engine_entries.REMEDY))
        else:
            found.append(Finding(f"engine {engine}", f"{names[0]} and {len(names) - 1} more in {where}"))
        try:
            nndet_task.check_folder(study.results)
        except InputError as error:
            found.append(Finding(f"folder for {engine}", str(error), BLOCKS))
    return found


def _project(root: Path) -> dict:
    path = root / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except FileNotFoundError:
        raise InputError(f"{path}: file not found: run this in the repository") from None
