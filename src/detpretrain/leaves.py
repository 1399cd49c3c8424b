"""What exactly defines each result: the configuration leaves of every stage, and their short hash (``recipe``).

A result is made again when its recipe changes; what is upstream counts through the input files. A version is raised by hand
when a component's numbers are no longer valid although its configuration is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from detpretrain.study import Study

VERSIONS: Mapping[str, int] = {
    "prepare": 1,
    "plan": 1,
    "preprocess": 1,
    "fetch": 1,
    "leakage": 1,
    "pretrain": 2,
    "probe": 1,
    "finetune": 1,
    "predict": 1,
    "evaluate": 1,
    "consolidate": 1,
    "compare": 1,
    "report": 1,
}


def short_hash(value: Any) -> str:
    """12 hex digits over canonical JSON: the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def recipe(stage: str, leaves: Mapping[str, Any]) -> str:
    return short_hash({"stage": stage, "version": VERSIONS[stage], **leaves})


def prepare(study: Study, dataset: str) -> dict[str, Any]:
    """Where the download lies does not count: a moved folder is the same data."""
    entry = study.entry("datasets", dataset)
    return {"dataset": {key: value for key, value in entry.items() if key not in ("identities", "raw")}}


def plan(study: Study, name: str) -> dict[str, Any]:
    return {"spec": study.plan_spec(name)}


def pretrain(study: Study, init: str, backbone: str) -> dict[str, Any]:
    """Entries of a pre-training; ``plan`` and corpus count through the input."""
    entry = study.entry("inits", init)
    method = study.entry("methods", entry["method"])
    return {
        "method": method,
        "backbone": study.entry("backbones", backbone),
        "recipe": study.entry("recipes", method["recipe"]),
        "seed": entry.get("seed", 0),
        "corpora": study.corpora(init),
    }


def identities(study: Study, dataset: str) -> str | None:
    """The id space of a data set's patients; None = unknown, compared with every other."""
    return study.entry("datasets", dataset).get("identities")


def fetch(study: Study, init: str) -> dict[str, Any]:
    return {"checkpoint": study.checkpoint(init)}


def leakage(study: Study, init: str, dataset: str) -> dict[str, Any]:
    """What decides whether a pre-training may be scored on a data set; the patients count through the input."""
    entry = study.entry("inits", init)
    corpora = study.corpora(init) if "method" in entry else []
    return {
        "corpora": corpora,
        "identities": {name: identities(study, name) for name in [*corpora, dataset]},
        "patients": entry.get("patients"),
        "accepted": study.accepts_overlap(init, dataset),
    }


def probe(study: Study, backbone: str) -> dict[str, Any]:
    return {"probe": study.config["probe"], "backbone": study.entry("backbones", backbone)}


def finetune(study: Study, detector: str, init: str, fold: int, seed: int) -> dict[str, Any]:
    """Entries of a fine-tuning; the checkpoint counts through the input, inference is ``predict``'s.

    An engine's detector has no recipe of ours, and its backbone only says which pre-training it starts from.
    """
    entry = study.entry("detectors", detector)
    if "engine" in entry:
        return {"detector": entry, "fold": fold, "seed": seed}
    given = {key: value for key, value in study.entry("inits", init).items() if key in ("stem", "neck") and value}
    return {
        "detector": {key: value for key, value in entry.items() if key != "inference"},
        "backbone": study.entry("backbones", entry["backbone"]),
        "recipe": study.entry("recipes", entry["recipe"]),
        "fold": fold,
        "seed": seed,
        **given,
    }


def predict(study: Study, detector: str) -> dict[str, Any]:
    entry = study.entry("detectors", detector)
    return {"engine": entry["engine"]} if "engine" in entry else {"inference": entry.get("inference", {})}


def consolidate(faithful_sweep: bool, folds: Sequence[int]) -> dict[str, Any]:
    return {"faithful_sweep": faithful_sweep, "folds": list(folds)}


def kinds(study: Study) -> dict[str, str]:
    """Kind of pre-training of the inits that name one, for the claims."""
    entries = {init: study.entry("inits", init) for init in study.inits}
    return {init: entry["kind"] for init, entry in entries.items() if "kind" in entry}


def compare(study: Study) -> dict[str, Any]:
    return {
        "comparison": study.config["comparison"],
        "rows": [row.path for row in study.rows],
        "kinds": kinds(study),
    }
