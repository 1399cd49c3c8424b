"""Results of a small study without any training: files that say what a run of now would have written."""

import json
import os
import socket
from dataclasses import replace
from functools import cache
from pathlib import Path

from detpretrain import provenance, status, study, trainings
from detpretrain.files import write_json
from detpretrain.lock_file import process_start

ROOT = Path(__file__).resolve().parents[2]
OLD = {"source": "old"}


@cache
def _smoke():
    return study.load([ROOT / "config" / "smoke.yaml"], ROOT)


def smoke_study(place):
    """The smoke study with its results in ``place``, and the file that says so to a command."""
    file, results = place / "place.yaml", str(place / "results")
    file.write_text(f"pathvars: {{results: {results}}}\n")
    return replace(_smoke(), config={**_smoke().config, "pathvars": {"results": results}}), file


def finish_cell(chosen, cell, **changed):
    """Every result of a cell; ``changed``: fields of a stage's provenance."""
    facts = {
        stage: {"recipe": recipe, "source": provenance.source_hash(modules), **changed.get(stage, {})}
        for stage, (recipe, modules) in status.expected(chosen, cell).items()
    }
    facts["finetune"]["pretrain"] = facts.pop("pretrain", None)
    training = trainings.of_cell(chosen, cell)
    _write(training, {"metrics.json": {"provenance": facts}})
    return training


def finish_pretraining(chosen, init, backbone, **changed):
    cell = next(cell for cell in chosen.cells if cell.init == init)
    recipe, modules = status.expected(chosen, cell)["pretrain"]
    facts = {"recipe": recipe, "source": provenance.source_hash(modules), **changed}
    training = trainings.of_pretraining(chosen, init, backbone)
    _write(training, {"assessment.json": {"provenance": facts}})
    return training


def _write(training, contents):
    """The files in the order of the stages, each a second after the one before, as in a run."""
    training.folder.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(training.stages):
        for name in stage.results:
            path = training.folder / name
            path.write_text(json.dumps(contents.get(name, {})))
            os.utime(path, (1e9 + number, 1e9 + number))


def leave_work(training, size=1000):
    """What a finished training leaves in its work folder."""
    (training.work / "tensorboard").mkdir(parents=True)
    (training.work / "tensorboard" / "events").write_bytes(bytes(size))
    write_json(training.work / "progress.json", {})


def hold(training, **changes):
    """The lock of a living process: this one."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid()), "job": None}
    write_json(training.work / "lock.json", holder | changes)
