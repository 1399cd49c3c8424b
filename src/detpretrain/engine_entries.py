"""Entries that another program carries out: a detector of ``detectors.yaml`` and a plan of ``config/plans`` with ``engine:``.

The only engine is ``nndet``, nnDetection's branch ``finetuning`` with its own executables; ``engines`` says how it is run.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from detpretrain.errors import InputError

NNDET = "nndet"
# in the order in which a study needs them
EXECUTABLES: Mapping[str, tuple[str, ...]] = {
    NNDET: ("nndet_prep", "nndet_unpack_task", "nndet_train", "nndet_sweep", "nndet_predict_with_task")
}
DETECTOR_KEYS = {"engine": str, "backbone": str, "plan": str, "config": str, "module": str}
DETECTOR_OPTIONS = {"transfer": str, "overrides": list}
PLAN_KEYS = {"engine": str, "planner": str}
PLAN_OPTIONS = {"overrides": list, "gpu": bool}
REMEDY = "make its environment (envs/nndet.yaml) and name its bin folder in the study file, runtime: {engines: {nndet: FOLDER}}"


def check_detector(name: str, entry: Mapping[str, Any]) -> None:
    """``InputError`` for an unknown engine, or a key that is unknown, missing or of another type."""
    _check(f"config/detectors.yaml: {name}", entry, DETECTOR_KEYS, DETECTOR_OPTIONS)


def check_plan(name: str, spec: Mapping[str, Any]) -> None:
    """``InputError`` as ``check_detector``, for a plan."""
    _check(f"plan {name}", spec, PLAN_KEYS, PLAN_OPTIONS)


def check_plan_of(name: str, entry: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """``InputError`` when the plan that a detector names is not one of its engine."""
    if spec.get("engine") != entry["engine"]:
        raise InputError(
            f"config/detectors.yaml: {name}: plan {entry['plan']} is not one of engine {entry['engine']}: "
            "name one of config/plans that has this engine"
        )
    check_plan(entry["plan"], spec)


def check_start(name: str, entry: Mapping[str, Any], init: str, start: Mapping[str, Any]) -> None:
    """Whether an engine's detector can start from an initialisation; ``start``: its entry of ``inits.yaml``.

    Raises:
        InputError: it cannot.
    """
    if not start.keys() & {"method", "checkpoint"}:
        return
    if "transfer" not in entry:
        raise InputError(
            f"config/detectors.yaml: {name} has no transfer (a module that loads a checkpoint), so it only starts from "
            f"scratch: leave the row with init {init} out"
        )
    if start.get("neck"):
        raise InputError(f"config/inits.yaml: {init}: {name} loads no neck: make an init without neck for it")
    if start.get("stem"):
        raise InputError(
            f"config/inits.yaml: {init}: {name} takes a checkpoint's default stem: make a file of this one "
            "(detpretrain checkpoint export FILE -o OUT.pth --stem ID) and name that"
        )


def executable(name: str, folder: str | None = None) -> str | None:
    """The path of an engine's executable: in ``folder``, else on PATH; None when it is not there."""
    path = os.environ.get("PATH", "")
    return shutil.which(name, path=f"{folder}{os.pathsep}{path}" if folder else path)


def _check(where: str, entry: Mapping[str, Any], needed: Mapping[str, type], optional: Mapping[str, type]) -> None:
    if entry.get("engine") not in EXECUTABLES:
        raise InputError(f"{where}: engine {entry.get('engine')!r}{_nearest(entry.get('engine'), EXECUTABLES)}")
    known = {**needed, **optional}
    for key, value in entry.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r} for engine {entry['engine']}{_nearest(key, known)}")
        words = all(isinstance(word, str) for word in value) if isinstance(value, list) else True
        if not isinstance(value, known[key]) or not words:
            raise InputError(f"{where}: {key}: {value!r}: write {_FORMS[known[key]]}")
    missing = [key for key in needed if key not in entry]
    if missing:
        raise InputError(f"{where} has no {missing[0]}: add it")


_FORMS = {str: "a word", list: "a list of KEY=VALUE", bool: "true or false"}


def _nearest(name: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}"
