"""Where a study's data sets and checkpoints come from, and whether they are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detpretrain import hub
from detpretrain.build import build
from detpretrain.datasets.prepare import RESERVED, VARIABLE, raw_folder
from detpretrain.datasets.raw_dataset import Published
from detpretrain.datasets.sources import with_class
from detpretrain.doctor.finding import BLOCKS, Finding
from detpretrain.errors import InputError
from detpretrain.study import Study


def datasets_of(study: Study) -> dict[str, str]:
    """Data set -> what the study does with it: scored first, then the corpora, then that of the probe."""
    found = {row.dataset: "scored" for row in study.rows}
    for init, _ in study.pretrainings:
        for corpus in study.corpora(init):
            found.setdefault(corpus, "pre-training")
    if "probe" in study.config and study.pretrainings:
        found.setdefault(study.config["probe"]["dataset"], "probe")
    return found


def task_folder(study: Study, dataset: str) -> Path:
    return study.data / dataset / "task"


def is_prepared(study: Study, dataset: str) -> bool:
    return (task_folder(study, dataset) / "dataset.json").is_file()


def source_of(study: Study, dataset: str) -> Any:
    """The object that prepares a data set; ``InputError`` when its entry builds none."""
    entry = with_class(dataset, study.entry("datasets", dataset))
    return build({key: value for key, value in entry.items() if key not in RESERVED})


def is_corpus(study: Study, dataset: str) -> bool:
    """Whether it has images alone: those are linked, not copied."""
    try:
        return getattr(source_of(study, dataset), "labels", None) == ()
    except InputError:
        return False


def published(study: Study, dataset: str) -> Published | None:
    """What is public about a data set, where its class says that."""
    try:
        return getattr(source_of(study, dataset), "published", None)
    except InputError:
        return None  # told by ``datasets``


def download(study: Study, dataset: str) -> Path | None:
    """The raw folder of a data set; None when it has none or it is not there."""
    try:
        return raw_folder(dataset, study.entry("datasets", dataset).get("raw"))
    except InputError:
        return None


def datasets(study: Study) -> list[Finding]:
    return [_dataset(study, name, role) for name, role in datasets_of(study).items()]


def _dataset(study: Study, name: str, role: str) -> Finding:
    label = f"{name} ({role})"
    if is_prepared(study, name):
        return Finding(label, "prepared")
    try:
        source_of(study, name)
    except InputError as error:
        return Finding(label, str(error), BLOCKS, "correct config/datasets.yaml")
    raw = study.entry("datasets", name).get("raw")
    if raw is None:
        return Finding(label, "generated")
    address = published(study, name)
    get = f"download it from {address.download}" if address else "download it"
    unset = [variable for variable in VARIABLE.findall(raw) if not os.environ.get(variable)]
    if unset:
        return Finding(label, f"{raw}: {unset[0]} is not set", BLOCKS, f"{get}, and set {unset[0]} to its folder")
    try:
        return Finding(label, f"download in {raw_folder(name, raw)}")
    except InputError:
        folder = VARIABLE.sub(lambda match: os.environ[match[1]], raw)
        return Finding(label, f"{folder}: not there", BLOCKS, f"{get}, or say under raw: in the study file where it is")


def checkpoints(study: Study, online: bool) -> list[Finding]:
    """Checkpoints that the study does not train; the Hub is asked for those it still has to fetch only if ``online``."""
    named = {init: study.checkpoint(init) for init in study.inits}
    found = [_checkpoint(study, init, name, online) for init, name in named.items() if name]
    if not any(name and hub.is_reference(name) for name in named.values()):
        found.append(Finding("Hugging Face Hub", "not needed"))
    return found


def _checkpoint(study: Study, init: str, name: str, online: bool) -> Finding:
    label = f"init {init}"
    if not hub.is_reference(name):
        return Finding(label, name)  # that the file is there was checked when the study was read
    if (study.results / "checkpoints" / f"{init}.pth").is_file():
        return Finding(label, f"{name}: fetched")
    if not online:
        return Finding(label, f"{name}: to be fetched (--online asks the Hub for it)")
    try:
        hub.check(name)
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ")
        return Finding(label, f"{name}: {reason.partition(':')[0]}", BLOCKS, reason.partition(": ")[2] or reason)
    return Finding(label, f"{name}: the Hub has it")
