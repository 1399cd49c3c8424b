"""Python, the packages against their pins, and what Snakemake needs for a profile."""

from __future__ import annotations

import importlib.util
import platform
import tomllib
from importlib import metadata
from pathlib import Path

from detpretrain.doctor.finding import BLOCKS, WARNING, Finding
from detpretrain.errors import InputError
from detpretrain.files import read_yaml

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


def _project(root: Path) -> dict:
    path = root / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except FileNotFoundError:
        raise InputError(f"{path}: file not found: run this in the repository") from None
