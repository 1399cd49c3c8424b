from pathlib import Path

import pandas as pd
import pytest
import torch

from detpretrain import leaves, study
from detpretrain.files import read_json
from detpretrain.models.factory import build_backbone
from detpretrain.training import adaptation, checkpoints
from detpretrain.training.loop import Stopped
from detpretrain.training.pretrain import Pretraining, pretrain
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def job():
    chosen = study.load([ROOT / "config" / "smoke.yaml"], ROOT)
    defining = leaves.pretrain(chosen, "mae", "resenc")
    return Pretraining(
        name="mae/resenc",
        method=defining["method"],
        backbone=defining["backbone"],
        recipe=defining["recipe"] | {"epochs": 1, "steps_per_epoch": 2},
        recipe_name="r",
        seed=0,
        signature="signature",
    )


def train(job, corpus, folder, budget=None):
    pretrain(
        job,
        corpus / "preprocessed",
        corpus / "task" / "splits.json",
        folder / "work",
        folder / "checkpoint.pth",
        folder / "log.csv",
        Runtime("cpu", 0, budget),
    )


@pytest.fixture(scope="module")
def trained(job, corpus, tmp_path_factory):
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    folder = tmp_path_factory.mktemp("trained")
    train(job, corpus, folder)
    yield folder
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_checkpoint_feeds_a_detector_s_encoder(job, corpus, trained):
    backbone = build_backbone(job.backbone, read_json(corpus / "plan.json"))
    encoder = backbone.encoder(1)
    report = adaptation.load_encoder(encoder, trained / "checkpoint.pth", 1)
    assert report.entries == len(encoder.state_dict())
    assert report.provenance["recipe"] == "signature"
    content = checkpoints.load(trained / "checkpoint.pth")
    assert [citation["type"] for citation in content["citations"]] == ["Pretraining Method"]
    assert content["nnssl_adaptation_plan"]["pretrain_plan"]["dataset_name"] == "smoke_corpus"


def test_log_has_training_and_validation_losses(trained):
    log = pd.read_csv(trained / "log.csv")
    assert log["epoch"].tolist() == [1]
    assert {"train_mse", "train_loss", "val_mse", "val_loss"} <= set(log.columns)
    assert (log[["train_loss", "val_loss"]] > 0).all(axis=None)


def test_stopped_and_started_again_ends_the_same(job, corpus, trained, tmp_path):
    with pytest.raises(Stopped):
        train(job, corpus, tmp_path, budget=1e-9)
    assert not (tmp_path / "checkpoint.pth").exists()
    train(job, corpus, tmp_path)
    ours, theirs = (checkpoints.load(folder / "checkpoint.pth")["network_weights"] for folder in (tmp_path, trained))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
