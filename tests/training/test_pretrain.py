import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from detpretrain import leaves, study, volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.files import read_json, read_yaml, write_json
from detpretrain.geometry import Geometry
from detpretrain.models.factory import build_backbone
from detpretrain.preprocessing.plan import plan_task
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.tasks import Task
from detpretrain.training import adaptation, checkpoints
from detpretrain.training.loop import Stopped
from detpretrain.training.pretrain import Corpus, Outputs, Pretraining, common_plan, patch_source, pretrain
from detpretrain.training.recipe import Recipe
from detpretrain.training.runtime import Runtime
from detpretrain.training.stream import PatchStream

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


def train(job, folder, *corpora, budget=None, stage=None):
    names = ("checkpoint.pth", "log.csv", "assessment.json", "preview.npz")
    outputs = Outputs(*(folder / name for name in names))
    corpora = [Corpus(part / "task", part / "preprocessed", "phantoms") for part in corpora]
    pretrain(job, corpora, folder / "work", outputs, Runtime("cpu", 0, budget, stage))


@pytest.fixture(scope="module")
def trained(job, corpus, tmp_path_factory):
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    folder = tmp_path_factory.mktemp("trained")
    train(job, folder, corpus)
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
    assert "Pretraining Method" in [citation["type"] for citation in content["citations"]]
    assert content["nnssl_adaptation_plan"]["pretrain_plan"]["dataset_name"] == "smoke_corpus"


def test_log_has_training_and_validation_losses(trained):
    log = pd.read_csv(trained / "log.csv")
    assert log["epoch"].tolist() == [1]
    assert {"train_mse", "train_loss", "val_mse", "val_loss"} <= set(log.columns)
    assert (log[["train_loss", "val_loss"]] > 0).all(axis=None)


def test_stopped_and_started_again_on_a_copy_ends_the_same(job, corpus, trained, tmp_path, capsys):
    with pytest.raises(Stopped):
        train(job, tmp_path, corpus, budget=1e-9)
    assert not (tmp_path / "checkpoint.pth").exists()
    (tmp_path / "node").mkdir()
    train(job, tmp_path, corpus, stage=str(tmp_path / "node"))
    out, err = capsys.readouterr()
    assert "resumed at step" in out
    assert f"staging: reading {corpus / 'preprocessed'} from {tmp_path / 'node'}" in err
    assert list((tmp_path / "node").iterdir()) == []
    ours, theirs = (checkpoints.load(folder / "checkpoint.pth")["network_weights"] for folder in (tmp_path, trained))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_the_checkpoint_lists_whom_it_has_seen(corpus, trained):
    (listed,) = checkpoints.load(trained / "checkpoint.pth")["patients"]
    assert listed == {"space": "phantoms", "ids": sorted(Task.read(corpus / "task").cases())}


def test_the_assessment_holds_scores_seconds_and_citations(trained):
    found = read_json(trained / "assessment.json")
    assert found["init"] == "mae"
    assert found["backbone"] == "resenc"
    assert found["corpora"] == ["smoke_corpus"]
    (score,) = found["scores"]
    assert score["baseline_name"] == "neighbour-mean in-fill"
    assert score["ratio"] == pytest.approx(score["value"] / score["baseline"])
    assert score["beats_baseline"] == (score["value"] < score["baseline"])
    assert 0 < found["seconds_per_step"]["views"] < 60
    assert 0 < found["seconds_per_step"]["step"] < 60
    assert "Pretraining Method" in [citation["type"] for citation in found["citations"]]
    assert found["provenance"]["recipe"] == "signature"


def test_the_preview_holds_an_array_for_every_panel(trained):
    with np.load(trained / "preview.npz") as preview:
        panels = json.loads(str(preview["panels"]))
        assert 0 < len(panels) <= 3
        for row, line in enumerate(panels):
            for column, panel in enumerate(line):
                assert panel["title"]
                assert preview[f"r{row}c{column}"].shape == (24, 24)


@pytest.fixture
def multitalent():
    chosen = study.load([ROOT / "config" / "smoke.yaml"], ROOT)
    defining = leaves.pretrain(chosen, "multitalent", "resenc")
    return Pretraining(
        name="multitalent/resenc",
        method=defining["method"],
        backbone=defining["backbone"],
        recipe=defining["recipe"] | {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "validation_steps": 3},
        recipe_name="r",
        seed=0,
        signature="signature",
    )


def test_data_sets_with_other_labels_train_one_network(multitalent, organs, thorax, tmp_path):
    train(multitalent, tmp_path, organs, thorax)
    content = checkpoints.load(tmp_path / "checkpoint.pth")
    assert content["nnssl_adaptation_plan"]["pretrain_plan"]["dataset_name"] == "smoke_organs+smoke_thorax"
    assert len(content["patients"]) == 2
    assert content["network_weights"]["decoder.seg_layers.1.weight"].shape[0] == 6 + 3
    names = [score["name"] for score in read_json(tmp_path / "assessment.json")["scores"]]
    assert {"Dice, smoke_organs: lungs", "Dice, smoke_thorax: lungs"} <= set(names)


def test_a_corpus_of_several_data_sets_draws_from_each(job, corpus, organs, tmp_path):
    sources = [patch_source(Corpus(part / "task", part / "preprocessed")) for part in (corpus, organs)]
    assert common_plan(sources)["dataset"] == "smoke_corpus+smoke_organs"
    train(job, tmp_path, corpus, organs)
    assert read_json(tmp_path / "assessment.json")["corpora"] == ["smoke_corpus", "smoke_organs"]


def test_corpora_must_share_patch_and_architecture(corpus, organs):
    sources = [patch_source(Corpus(part / "task", part / "preprocessed")) for part in (corpus, organs)]
    sources[1].index["plan"]["patch"] = [24, 24, 32]
    with pytest.raises(InputError, match=r"smoke_organs: patch \[24, 24, 32\], but smoke_corpus has \[24, 24, 24\]"):
        common_plan(sources)


def test_data_sets_are_drawn_by_a_power_of_their_size(corpus, organs):
    sources = [patch_source(Corpus(part / "task", part / "preprocessed")) for part in (corpus, organs)]
    for source, cases in zip(sources, (1, 2), strict=True):
        source.split["train"][:] = source.split["train"][:cases]
    recipe = Recipe.from_entry(
        "r",
        {
            "optimizer": {"class": "torch.optim.SGD"},
            "schedule": {"class": "detpretrain.training.schedules.WarmupPoly", "lr": 0.1},
            **dict.fromkeys(("epochs", "steps_per_epoch", "validation_steps", "batch_size"), 1),
        },
    )
    for exponent in (0.5, 1.0, 2.0):
        stream = PatchStream(sources, recipe, (0,), 0, to_batch=tuple, source_exponent=exponent)
        assert stream._training.bounds[0] == pytest.approx(1 / (1 + 2**exponent))


def test_each_channel_of_a_corpus_is_an_image_of_its_own(job, tmp_path):
    raw, geometry = tmp_path / "raw", Geometry((26, 26, 26), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    for case in range(3):
        for channel in range(2):
            image = rng.normal(size=geometry.shape).astype(np.float32)
            volumes.write(raw / "imagesTr" / f"c{case}_{channel:04d}.nii.gz", image, geometry)
        volumes.write(raw / "labelsTr" / f"c{case}.nii.gz", (image > 1).astype(np.uint8), geometry)
    write_json(
        raw / "dataset.json", {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "bright": 1}}
    )
    entry = {"class": "detpretrain.datasets.nnunet.NnUNetDataset", "raw": str(raw), "splits": {"folds": 1}}
    prepare("two", entry, tmp_path / "task")
    plan_task(
        tmp_path / "task", "two", "p", read_yaml(ROOT / "config" / "plans" / "smoke_corpus.yaml"), tmp_path / "p.json"
    )
    preprocess_task(tmp_path / "task", read_json(tmp_path / "p.json"), tmp_path / "preprocessed")
    train(job, tmp_path / "out", tmp_path)
    plan = checkpoints.load(tmp_path / "out" / "checkpoint.pth")["nnssl_adaptation_plan"]
    assert plan["pretrain_num_input_channels"] == 1
