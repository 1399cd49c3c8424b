"""Model + preprocessed cases -> raw boxes of the fold's held-out cases (val, and test if it has one) and of the test sets.

By this package, or by the entry's engine.
"""

import time
from argparse import Namespace
from pathlib import Path

from detpretrain import jobs, leaves, provenance, study
from detpretrain.engines import nndet_predict, nndet_train
from detpretrain.errors import exit_on_input_error
from detpretrain.evaluation import raw_boxes
from detpretrain.files import read_json
from detpretrain.folds import read_fold
from detpretrain.inference.model import load
from detpretrain.inference.predict import predict_case
from detpretrain.preprocessing.store import read_case
from detpretrain.tasks import CROSS_VALIDATION
from detpretrain.training.runtime import Runtime, peak_memory_mib

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--detector", required=True, help="entry of config/detectors.yaml, for its inference settings")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True, help="PREPROCESSED/index.json")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="raw_boxes.parquet")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; the study's by default")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    chosen = study.load(arguments.config, ROOT)
    defining = leaves.predict(chosen, arguments.detector)
    if chosen.engine(arguments.detector) is not None:
        return by_engine(arguments, chosen)
    detector = chosen.entry("detectors", arguments.detector)
    backbone = chosen.entry("backbones", detector["backbone"])
    jobs.check_recipe("predict", defining, arguments.recipe)
    device = Runtime.of(jobs.runtime_settings(arguments, chosen)).prepare(arguments.threads)
    model = load(arguments.model, device, defining["inference"])
    split = read_fold(arguments.splits, arguments.fold, model.trained_on)
    held_out = {*split["val"], *split.get("test", ())}
    candidates, properties = {}, {}
    for record in read_json(arguments.index)["cases"]:
        name = record["case"]
        if record["test_set"] == CROSS_VALIDATION and name not in held_out:
            continue
        case = read_case(arguments.index.parent, name)
        found = predict_case(
            model.detector, case.data[...], model.plan["patch"], model.settings, device, model.precision
        )
        candidates[name], properties[name] = found, case.properties
        print(f"{name}: {len(found.scores)} boxes", flush=True)
    facts = {
        "finetune": model.provenance,
        "predict": provenance.record(
            arguments.recipe,
            ["detpretrain.inference.predict", *provenance.class_modules(detector, backbone)],
            device=str(device),
            threads=arguments.threads,
            seconds=round(time.monotonic() - started, 1),
            peak_memory_mib=peak_memory_mib(device),
        ),
    }
    mirrors, classes = len(model.settings.mirrors), model.plan["classes"]
    raw_boxes.write(arguments.output, raw_boxes.RawBoxes(candidates, properties, mirrors, classes, facts))


def by_engine(arguments: Namespace, chosen: study.Study) -> None:
    jobs.check_recipe("predict", leaves.predict(chosen, arguments.detector), arguments.recipe)
    nndet_predict.predict(
        arguments.model,
        arguments.fold,
        arguments.index.parent,
        arguments.splits,
        chosen.folder / "work",
        arguments.output,
        arguments.recipe,
        nndet_train.Limits.of(jobs.runtime_settings(arguments, chosen)),
    )


if __name__ == "__main__":
    exit_on_input_error(main)
