"""The real script on a tiny data set: killed, raced for, given another input; what it writes is what the whole run writes."""

import os
import signal
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
import torch
from finetune_script import Workplace, wait_for

from detpretrain import leaves, study
from detpretrain.inference import model as inference_model
from detpretrain.preprocessing import store
from detpretrain.tasks import Task, read_splits
from detpretrain.training import adaptation, checkpoints
from detpretrain.training.finetune import Cell, finetune
from detpretrain.training.loop import Stopped
from detpretrain.training.runtime import Runtime

DETECTOR = "retina_unet_resenc_v001"  # averages weights, so that there is more state to lose
EPOCHS = 3


@pytest.fixture(scope="module")
def workplace(nodules, tmp_path_factory):
    """Its recipe has an epoch more, its study one cell."""
    made = Workplace.make(tmp_path_factory.mktemp("workplace"), nodules, DETECTOR, "retina_smoke_v001", epochs=EPOCHS)
    made.add_study("kill")
    return made


@pytest.fixture(scope="module")
def uninterrupted(workplace, tmp_path_factory):
    """Two trainers started at once on one cell: folder, and (status, stdout, stderr) of both."""
    folder = tmp_path_factory.mktemp("whole")
    pair = [workplace.start("kill", folder) for _ in range(2)]
    outcomes = []
    for process in pair:
        out, err = process.communicate(timeout=180)
        outcomes.append((process.returncode, out, err))
    return folder, sorted(outcomes)


def test_second_trainer_of_a_cell_is_refused(uninterrupted):
    _, (first, second) = uninterrupted
    assert (first[0], second[0]) == (0, 1), (first, second)
    assert f"epoch {EPOCHS}/{EPOCHS}" in first[1]
    assert second[2].startswith("error: ")
    assert "is training this cell" in second[2]
    assert second[2].count("\n") == 1
    assert second[1] == ""


def test_killed_and_started_again_ends_bit_for_bit_the_same(workplace, uninterrupted, tmp_path):
    whole, _ = uninterrupted
    process = workplace.start("kill", tmp_path)
    wait_for(tmp_path / "work" / "last.pth", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "model.pth").exists()
    step = checkpoints.load(tmp_path / "work" / "last.pth")["step"]
    assert 0 < step < 6 * EPOCHS
    again = subprocess.run(workplace.command("kill", tmp_path), capture_output=True, text=True, timeout=180)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"resumed at step {step}" in again.stdout
    ours, theirs = (checkpoints.load(folder / "model.pth") for folder in (tmp_path, whole))
    assert list(ours["weights"]) == list(theirs["weights"])
    for name, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][name]), name
    logs = [pd.read_csv(folder / "log.csv").drop(columns="seconds") for folder in (tmp_path, whole)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_finished_cell_leaves_no_state_and_no_lock(uninterrupted):
    folder, _ = uninterrupted
    assert {path.name for path in folder.iterdir()} == {"model.pth", "log.csv", "work"}
    assert not {"last.pth", "lock.json"} & {path.name for path in (folder / "work").iterdir()}


def test_log_and_model_hold_what_later_stages_read(uninterrupted):
    folder, _ = uninterrupted
    log = pd.read_csv(folder / "log.csv")
    assert log["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert {"step", "lr", "train_loss", "val_loss", "val_ap", "seconds"} <= set(log.columns)
    assert log["val_ap"].between(0, 1).all()
    model = inference_model.load(folder / "model.pth", torch.device("cpu"))
    assert model.provenance["seed"] == 0
    assert model.provenance["device"] == "cpu"
    assert len(model.provenance["recipe"]) == len(model.provenance["source"]) == 12


def test_the_model_says_whose_patients_it_has_seen(uninterrupted, nodules):
    """Those of the training part and of the validation part: no study may score it on either."""
    content = checkpoints.load(uninterrupted[0] / "model.pth")
    split = read_splits(nodules / "task" / "splits.json")[0]
    assert content["trained_on"] == split["train"]
    [seen] = content["patients"]
    patients = Task.read(nodules / "task").case_table().set_index("case")["patient"]
    assert set(patients.loc[split["train"]].astype(str)) <= set(seen["ids"])
    assert set(patients.loc[split["val"]].astype(str)) <= set(seen["ids"])


@pytest.fixture
def cell(workplace):
    chosen = study.load([workplace.root / "kill.yaml"], workplace.root)
    defining = leaves.finetune(chosen, "retina_unet_resenc", "mae", 1, 0)
    return Cell(
        name="cell",
        detector=defining["detector"],
        backbone=defining["backbone"],
        recipe=defining["recipe"] | {"epochs": 1, "steps_per_epoch": 2, "augmentation": {}},
        recipe_name="r",
        fold=1,
        seed=0,
        checkpoint=None,
        signature="signature",
    )


@pytest.fixture
def checkpoint(cell, nodules, tmp_path):
    """``checkpoint(seed)``: a pre-trained encoder of this cell's backbone."""
    from detpretrain.files import read_json
    from detpretrain.models.factory import build_backbone

    def make(seed):
        torch.manual_seed(seed)
        plan = read_json(nodules / "plan.json")
        backbone = build_backbone(cell.backbone, plan)
        path = tmp_path / f"checkpoint{seed}.pth"
        adaptation.write_pretrained(path, backbone.unet(1, 1), backbone, plan, [], {"recipe": f"pretrained {seed}"})
        return path

    return make


@pytest.fixture
def train(cell, nodules, tmp_path):
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def run(folder, checkpoint, budget=None, stage=None):
        folder = tmp_path / folder
        finetune(
            replace(cell, checkpoint=checkpoint),
            nodules / "preprocessed",
            nodules / "task" / "splits.json",
            folder / "work",
            folder / "model.pth",
            folder / "log.csv",
            Runtime("cpu", 0, budget, stage),
        )
        return checkpoints.load(folder / "model.pth")

    yield run
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_state_that_started_from_another_checkpoint_is_not_resumed(train, checkpoint, capsys):
    first, second = checkpoint(1), checkpoint(2)
    with pytest.raises(Stopped):
        train("cut", first, budget=1e-9)
    found = train("cut", second)
    assert "discarded" in capsys.readouterr().out
    expected = train("fresh", second)
    for name, value in expected["weights"].items():
        assert torch.equal(value, found["weights"][name]), name
    pretrained = found["provenance"]["pretrain"]
    assert pretrained["recipe"] == "pretrained 2"
    assert "Framework" in [citation["type"] for citation in pretrained["citations"]]


def test_data_that_are_copied_to_the_node_train_the_same_weights(train, nodules, tmp_path, monkeypatch):
    opened, folders = store._open, set()
    monkeypatch.setattr(store, "_open", lambda path: (folders.add(path.parent), opened(path))[1])
    expected = train("shared", None)
    assert folders == {nodules / "preprocessed"}
    folders.clear()
    (tmp_path / "node").mkdir()
    found = train("near", None, stage=str(tmp_path / "node"))
    [near] = folders
    assert near.is_relative_to(tmp_path / "node")
    assert list((tmp_path / "node").iterdir()) == []
    for name, value in expected["weights"].items():
        assert torch.equal(value, found["weights"][name]), name
    logs = [pd.read_csv(tmp_path / name / "log.csv").drop(columns="seconds") for name in ("shared", "near")]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_checkpoint_changes_the_encoder_and_nothing_else_before_training(train, checkpoint, cell, nodules, monkeypatch):
    started = {}

    def no_training(run, budget):
        started[len(started)] = {name: value.clone() for name, value in run.model.state_dict().items()}
        return []

    monkeypatch.setattr("detpretrain.training.finetune.fit", no_training)
    train("scratch", None)
    train("pretrained", checkpoint(1))
    changed = {name for name in started[0] if not torch.equal(started[0][name], started[1][name])}
    assert changed
    assert all(name.startswith("encoder.") for name in changed)
