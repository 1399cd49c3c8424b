"""A stand-in for nnDetection's commands: as strict as nnDetection about what it is given, and writes what nnDetection writes.

It learns nothing. Its detections are the bright components of an image with some noise, found in nnDetection's preprocessed
coordinates (cropped, resampled, axes permuted), in its order of a box's sides, and restored by its rule. It imports nothing of
the package. ``install`` puts it into a folder under the commands' names; what it is asked and what it finds goes to the diary
(``NNDET_DIARY``, lines of json), the boxes there as corners in mm. ``NNDET_FAIL=COMMAND`` makes a command fail,
``NNDET_HANG=EPOCHS`` makes a training hang after so many epochs until it is ended.
"""

import argparse
import csv
import json
import os
import pickle
import re
import stat
import sys
import time
from pathlib import Path

import numpy as np

NAMES = ("nndet_prep", "nndet_unpack_task", "nndet_train", "nndet_sweep", "nndet_predict_with_task")
DATA, MODELS, THREADS = "det_data", "det_models", "det_num_threads"
PLANNERS = ("D3V001", "D3V002")
MODULES = {  # by the configurations that hold them; of each, the one that loads a checkpoint
    "retinaunet_v001": {"RetinaUNetV001": None},
    "residual_encoder_retinaunet_focal_v002": {"RetinaUNetFocalV002_ResEnc": "RetinaUNetFocalV002_ResEnc_TL"},
    "residual_encoder_def_detr_v002": {"BoxDeformableDETRV002_ResEnc": "BoxDeformableDETRV002_ResEnc_TL"},
}
COMMIT = "8b4d095479be1ea8ff21949b93983297af3090e4"
EPOCHS = 3
LAUNCHER = """#!{python}
import sys
sys.path.insert(0, {folder!r})
import nndet_standin
nndet_standin.main({name!r})
"""


def install(folder):
    """The five commands in ``folder``, which is what a study names under ``runtime: engines``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        path = folder / name
        path.write_text(LAUNCHER.format(python=sys.executable, folder=str(Path(__file__).parent), name=name))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def tell(**facts):
    with open(os.environ["NNDET_DIARY"], "a") as diary:
        diary.write(json.dumps(facts) + "\n")


def read_diary(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


# --- what is given --------------------------------------------------------------------------------------------------------


def check_environment():
    assert os.environ["OMP_NUM_THREADS"] == "1", "OMP_NUM_THREADS must be 1: processes augment"
    assert int(os.environ[THREADS]) >= 1
    assert "PYTHONPATH" not in os.environ, "packages of another environment come first"
    for name in (DATA, MODELS):
        assert Path(os.environ[name]).is_dir(), f"{name} is no folder"
    # nnDetection finds a task by a part of its name
    assert len(list(Path(os.environ[DATA]).iterdir())) == 1


def task_folder(name):
    assert re.fullmatch(r"Task\d{3}_[A-Za-z0-9_-]+", name), name
    folder = Path(os.environ[DATA]) / name
    assert folder.is_dir(), folder
    assert "." not in str(folder), "nnDetection cuts paths at dots"
    assert "_seg" not in str(folder), "nnDetection passes over paths with _seg"
    return folder


def check_task(folder):
    """dataset.json and raw_splitted as nnDetection's checks want them; returns case -> image."""
    content = json.loads((folder / "dataset.json").read_text())
    required = {"task", "name", "dim", "target_class", "test_labels", "labels", "modalities", "annotation_style"}
    assert required <= set(content), required - set(content)
    assert content["task"] == folder.name
    assert content["dim"] == 3
    assert content["test_labels"] is False
    assert content["annotation_style"] in ("seg", "weak")
    for key in ("labels", "modalities"):
        assert list(content[key]) == [str(number) for number in range(len(content[key]))], content[key]
    raw = folder / "raw_splitted"
    assert sorted(path.name for path in raw.iterdir()) == ["imagesTr", "labelsTr"], "test cases are not to be seen"
    cases = sorted({path.name[: -len("_0000.nii.gz")] for path in (raw / "imagesTr").iterdir()})
    expected = {f"{case}_{channel:04d}.nii.gz" for case in cases for channel in range(len(content["modalities"]))}
    assert {path.name for path in (raw / "imagesTr").iterdir()} == expected
    assert {path.name for path in (raw / "labelsTr").iterdir()} == {
        f"{c}{e}" for c in cases for e in (".nii.gz", ".json")
    }
    for case in cases:
        check_label(raw, case, len(content["labels"]))
    return {case: raw / "imagesTr" / f"{case}_0000.nii.gz" for case in cases}


def check_label(raw, case, classes):
    import SimpleITK as sitk  # here and below: most commands need none, and each is a process

    image = sitk.ReadImage(str(raw / "imagesTr" / f"{case}_0000.nii.gz"))
    label = sitk.ReadImage(str(raw / "labelsTr" / f"{case}.nii.gz"))
    array = sitk.GetArrayFromImage(label)
    assert array.dtype.kind in "iu", f"{case}: the label map is {array.dtype}"
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(label, name)(), getattr(image, name)(), atol=1e-4, err_msg=case)
    content = json.loads((raw / "labelsTr" / f"{case}.json").read_text())
    assert list(content) == ["instances"], f"{case}: {list(content)}"
    ids = sorted(map(int, content["instances"]))
    assert ids == list(range(1, len(ids) + 1)), f"{case}: ids {ids} have a gap"
    assert set(np.unique(array)) - {0} == set(ids), f"{case}: ids of the map and of the json differ"
    assert all(type(value) is int and 0 <= value < classes for value in content["instances"].values())


def overrides_of(words, known):
    """KEY=VALUE words as a dictionary; ``known``: keys of the configuration."""
    found = {}
    for word in words or ():
        key, equal, value = word.partition("=")
        assert equal, f"not an override: {word}"
        assert key in known, f"Could not override '{key}'"
        found[key] = value
    return found


def write_prediction(case, image, folder, seed, part):
    import SimpleITK as sitk
    from nndet_detections import detect, in_order

    boxes, scores, labels, about = detect(image, seed)
    content = {
        "pred_boxes": in_order(boxes).astype(np.float32),
        "pred_scores": scores.astype(np.float32),
        "pred_labels": labels.astype(np.float32),
        "restore": True,
        **{key: about[key] for key in ("original_size_of_raw_data", "itk_origin", "itk_spacing", "itk_direction")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}_boxes.pkl").write_bytes(pickle.dumps(content))
    space = sitk.ReadImage(str(image))
    corners = [
        [space.TransformContinuousIndexToPhysicalPoint(box[::-1, side].tolist()) for side in (0, 1)]
        for box in content["pred_boxes"][:, [[0, 2], [1, 3], [4, 5]]].astype(float)
    ]
    tell(part=part, case=case, seed=seed, world=corners, scores=content["pred_scores"].tolist(), labels=labels.tolist())


# --- the commands ---------------------------------------------------------------------------------------------------------


def nndet_prep(argv):
    from nndet_detections import TARGET, properties_of

    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("-o", "--overwrites", nargs="+")
    parser.add_argument("--full_check", action="store_true")
    parser.add_argument("-np", "--num_processes", type=int, default=4)
    parser.add_argument("-npp", "--num_processes_preprocessing", type=int, default=4)
    arguments = parser.parse_args(argv)
    (name,) = arguments.tasks
    chosen = overrides_of(arguments.overwrites, {"planner", "train"})
    assert chosen["planner"] in PLANNERS
    assert chosen.get("train", "retinaunet_v001") in MODULES
    folder = task_folder(name)
    images, identifier = check_task(folder), f"{chosen['planner']}_3d"
    target = folder / "preprocessed" / identifier / "imagesTr"
    target.mkdir(parents=True, exist_ok=True)
    for case, path in images.items():
        about = properties_of(path)
        np.savez(target / f"{case}.npz", data=about.pop("array")[None].astype(np.float32))
        (target / f"{case}.pkl").write_bytes(pickle.dumps(about))
    plan = {"data_identifier": identifier, "planner_id": chosen["planner"], "target_spacing": TARGET}
    (folder / "preprocessed" / f"{identifier}.json").write_text(json.dumps(plan))
    (folder / "preprocessed" / "properties").mkdir(exist_ok=True)


def nndet_unpack_task(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("data_identifier")
    parser.add_argument("-p", "--num_processes", type=int, default=4)
    arguments = parser.parse_args(argv)
    folder = task_folder(arguments.task) / "preprocessed" / arguments.data_identifier / "imagesTr"
    packed = sorted(folder.glob("*.npz"))
    assert packed, folder
    for path in packed:
        np.save(path.with_suffix(".npy"), np.load(path)["data"])


def split_of(folder, fold):
    """The fold by splits_final, json and pickle alike; every case of it is unpacked."""
    place = folder / "preprocessed"
    splits = json.loads((place / "splits_final.json").read_text())
    assert pickle.loads((place / "splits_final.pkl").read_bytes()) == splits
    chosen = splits[fold]
    assert set(chosen) == {"train", "val"}
    assert not set(chosen["train"]) & set(chosen["val"])
    (identifier,) = {path.stem for path in place.glob("D3V*_3d.json")}
    for case in chosen["train"] + chosen["val"]:
        assert (place / identifier / "imagesTr" / f"{case}.npy").is_file(), f"{case} is not unpacked"
    return chosen


def check_checkpoint(path):
    import torch

    content = torch.load(path, map_location="cpu", weights_only=False)
    assert content["network_weights"]
    plan = content["nnssl_adaptation_plan"]
    assert {"architecture_plans", "key_to_encoder", "key_to_stem", "keys_to_in_proj"} <= set(plan)


TRAIN_KEYS = {
    "module", "planner", "exp.tag", "+transfer_learning_ckpt", "train/trainer_cfg@trainer_cfg",
    *(f"trainer_cfg.{key}" for key in (
        "max_num_epochs", "num_train_batches_per_epoch", "num_val_batches_per_epoch", "swa_epochs"
    )),
}  # fmt: skip


def nndet_train(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("config")
    parser.add_argument("fold", type=int)
    parser.add_argument("-o", "--overwrites", nargs="+")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--load_adapt_plan", action="store_true")
    starts = parser.add_mutually_exclusive_group()
    starts.add_argument("-ct", "--continue_training", action="store_true")
    starts.add_argument("-tl", "--transfer_learning", action="store_true")
    arguments = parser.parse_args(argv)
    task = task_folder(arguments.task)
    split = split_of(task, arguments.fold)
    chosen = overrides_of(arguments.overwrites, TRAIN_KEYS)
    modules = MODULES[arguments.config]
    checkpoint = chosen.get("+transfer_learning_ckpt")
    assert chosen["module"] in (modules.values() if checkpoint else modules), chosen["module"]
    assert (checkpoint is not None) == arguments.load_adapt_plan
    if checkpoint:
        assert arguments.transfer_learning or arguments.continue_training, "the weights are never loaded"
        check_checkpoint(checkpoint)
    assert (task / "preprocessed" / f"{chosen['planner']}_3d.json").is_file()
    name = f"{chosen['module']}_{chosen['planner']}_3d{chosen['exp.tag']}"
    folder = Path(os.environ[MODELS]) / task.name / name / f"fold{arguments.fold}"
    begin = 0
    if arguments.continue_training:
        begin = json.loads((folder / "model_last.ckpt").read_text())["epochs"]
    write_about(folder, task, split, chosen)
    train(folder, begin, int(chosen.get("trainer_cfg.max_num_epochs", EPOCHS)))


def write_about(folder, task, split, chosen):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in chosen.items()))
    (folder / "splits.json").write_text(json.dumps(split))
    (folder / "plan.json").write_text((task / "preprocessed" / f"{chosen['planner']}_3d.json").read_text())
    git = {"hash": COMMIT, "gitdir": "/x", "active_branch": "finetuning"}
    (folder / "meta.json").write_text(json.dumps({"torch_version": "2.4.1+cu121", "git": git, "host": "h"}))


def train(folder, begin, epochs):
    """Epochs from ``begin``: train.log, metrics.csv of a new version, and a checkpoint after each."""
    number = len(list((folder / "logging" / "csv").glob("version_*")))
    table = folder / "logging" / "csv" / f"version_{number}" / "metrics.csv"
    table.parent.mkdir(parents=True)
    lines = []
    for epoch in range(begin, epochs):
        when = {"epoch": epoch, "step": 20 * (epoch + 1) - 1}
        lines.append({**when, "val_loss/loss": 1.5 / (epoch + 1), "val/box_AP_IoU_0.10": 0.1 * epoch})
        lines.append({**when, "train_loss/loss": 1 / (epoch + 1), "train_loss/loss_cls": 0.5})
        with open(table, "w", newline="") as handle:
            writer = csv.DictWriter(handle, sorted(set().union(*lines)), restval="")
            writer.writeheader()
            writer.writerows(lines)
        with open(folder / "train.log", "a") as log:
            log.write(f"INFO     Train epoch {epoch} took 10.5 s\nINFO     Val epoch {epoch} took 2.0 s\n")
        (folder / "model_last.ckpt").write_text(json.dumps({"epochs": epoch + 1}))
        print(f"epoch {epoch} of {epochs}", flush=True)
        if int(os.environ.get("NNDET_HANG", 0)) == epoch + 1:
            time.sleep(600)
    (folder / "model_best.ckpt").write_text("{}")
    (folder / "run_info.json").write_text(json.dumps({"gpu0": "NVIDIA H100", "train_s": 37.5}))


def model_of(task, model, fold):
    folder = Path(os.environ[MODELS]) / task / model / f"fold{fold}"
    assert json.loads((folder / "model_last.ckpt").read_text())["epochs"] > 0
    for name in ("config.yaml", "plan.json"):
        assert (folder / name).is_file(), name
    return folder


def nndet_sweep(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("model")
    parser.add_argument("fold", type=int)
    arguments = parser.parse_args(argv)
    task = task_folder(arguments.task)
    folder = model_of(task.name, arguments.model, arguments.fold)
    for case in split_of(task, arguments.fold)["val"]:
        image = task / "raw_splitted" / "imagesTr" / f"{case}_0000.nii.gz"
        write_prediction(case, image, folder / "val_predictions", f"{arguments.model}-{arguments.fold}-{case}", "val")
    (folder / "plan_inference.json").write_text("{}")


def nndet_predict_with_task(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("task")
    parser.add_argument("model")
    parser.add_argument("fold", type=int)
    parser.add_argument("--load_models", choices=("all", "last", "best"), default="all")
    parser.add_argument("-npp", "--num_processes_preprocessing", type=int, default=3)
    parser.add_argument("-spio", "--save_preprocessed_in_output", action="store_true")
    arguments = parser.parse_args(argv)
    assert arguments.load_models == "last", "the best checkpoint was chosen on the fold that is scored"
    assert arguments.save_preprocessed_in_output, "preprocessed cases would stay beside the images"
    folder = model_of(task_folder(arguments.task).name, arguments.model, arguments.fold)
    assert (folder / "plan_inference.json").is_file(), "sweep first"
    assert arguments.prediction.is_dir()
    (arguments.data / "inference.log").write_text("")
    images = sorted(arguments.data.glob("*_0000.nii.gz"))
    assert images
    for image in images:
        case = image.name[: -len("_0000.nii.gz")]
        seed = f"{arguments.model}-{arguments.fold}-{case}"
        write_prediction(case, image, arguments.prediction, seed, arguments.data.name)
    (arguments.prediction / "preprocessed").mkdir()


def main(name):
    surroundings = {key: os.environ.get(key) for key in (DATA, MODELS, THREADS, "PATH")}
    tell(command=name, argv=sys.argv[1:], environment=surroundings)
    check_environment()
    print(f"{name} begins", flush=True)
    if os.environ.get("NNDET_FAIL") == name:
        print("Traceback (most recent call last):\nRuntimeError: CUDA out of memory", file=sys.stderr)
        sys.exit(1)
    globals()[name](sys.argv[1:])
