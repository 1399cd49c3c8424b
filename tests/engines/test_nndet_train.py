import json
import os
import signal
import threading
from dataclasses import replace

import nndet_standin
import pandas as pd
import pytest
import torch

from detpretrain.engines import nndet_model, nndet_train
from detpretrain.errors import InputError

ENTRY = {
    "engine": "nndet",
    "backbone": "resenc",
    "plan": "nndet_v002",
    "config": "residual_encoder_retinaunet_focal_v002",
    "module": "RetinaUNetFocalV002_ResEnc",
    "transfer": "RetinaUNetFocalV002_ResEnc_TL",
    "overrides": ["trainer_cfg.max_num_epochs=2"],
}
PRETRAINED = {"recipe": "abc", "citations": []}


@pytest.fixture
def checkpoint(tmp_path):
    plan = dict.fromkeys(("architecture_plans", "key_to_encoder", "key_to_stem", "keys_to_in_proj"), "x")
    torch.save({"network_weights": {"a": torch.zeros(1)}, "nnssl_adaptation_plan": plan}, tmp_path / "mae.pth")
    return tmp_path / "mae.pth"


@pytest.fixture
def cell():
    return nndet_train.NnDetCell(
        name="far/d/scratch/fold1-seed3", detector=ENTRY, init="scratch", fold=1, seed=3, checkpoint=None,
        pretrained=None, signature="recipe1",
    )  # fmt: skip


@pytest.fixture
def train(prepared, splits, tmp_path, diary):
    """``train(cell)`` -> folder of model.pth and log.csv."""

    def run(cell, **limits):
        out = tmp_path / "cell"
        out.mkdir(exist_ok=True)
        limits = nndet_train.Limits(workers=3, **limits)
        nndet_train.finetune(cell, prepared, splits, tmp_path / "work", out / "model.pth", out / "log.csv", limits)
        return out

    return run


def train_words(commands):
    return [words for words in commands() if words[0] == "nndet_train"]


def test_scratch_is_trained_by_the_entry_s_configuration(train, cell, commands, diary, tmp_path):
    out = train(cell)
    (words,) = train_words(commands)
    assert words == [
        "nndet_train", "Task100_far", ENTRY["config"], "1", "-o", "module=RetinaUNetFocalV002_ResEnc", "planner=D3V002",
        "exp.tag=_scratch", "trainer_cfg.max_num_epochs=2",
    ]  # fmt: skip
    told = diary()[-1]["environment"]
    assert told["det_models"] == str(tmp_path / "work" / "nndet" / "models")
    assert told["det_num_threads"] == "3"
    assert told["PATH"].split(":")[0] == str(tmp_path / "bin")
    table = pd.read_csv(out / "log.csv")
    assert table[["epoch", "train_loss", "val_loss", "val_ap"]].values.tolist() == [[1, 1, 1.5, 0], [2, 0.5, 0.75, 0.1]]
    assert table["seconds"].tolist() == [12.5, 12.5]
    assert not (tmp_path / "work" / "nndet").exists()
    assert (tmp_path / "work" / "nndet_train.log").exists()


def test_model_holds_the_checkpoint_and_tells_where_it_comes_from(train, cell, plan):
    facts = nndet_model.read_facts(train(cell) / "model.pth")
    assert facts["model"] == "RetinaUNetFocalV002_ResEnc_D3V002_3d_scratch"
    assert (facts["fold"], facts["plan"], facts["cell"]) == (1, plan, cell.name)
    assert facts["trained_on"] == ["case_2", "case_1", "case_0"]
    record = facts["provenance"]
    assert (record["recipe"], record["seed"], record["pretrain"], record["device"]) == ("recipe1", 3, None, "cuda")
    assert record["engine"] == {
        "name": "nnDetection",
        "commit": nndet_standin.COMMIT,
        "branch": "finetuning",
        "torch": "2.4.1+cu121",
        "gpu": "NVIDIA H100",
    }
    assert record["seconds"] > 0
    assert len(record["source"]) == 12


def test_a_checkpoint_is_transferred_by_the_other_module(train, cell, checkpoint, commands, tmp_path):
    pretrained = replace(cell, init="mae", checkpoint=checkpoint, pretrained=PRETRAINED)
    facts = nndet_model.read_facts(train(pretrained) / "model.pth")
    (words,) = train_words(commands)
    assert words[5:] == [
        "module=RetinaUNetFocalV002_ResEnc_TL", "planner=D3V002", "exp.tag=_mae", "trainer_cfg.max_num_epochs=2",
        f"+transfer_learning_ckpt={tmp_path / 'work' / 'nndet' / 'checkpoint.pth'}", "--load_adapt_plan",
        "--transfer_learning",
    ]  # fmt: skip
    assert facts["provenance"]["pretrain"] == PRETRAINED
    assert facts["model"] == "RetinaUNetFocalV002_ResEnc_TL_D3V002_3d_mae"


def interrupted(train, cell, monkeypatch, tmp_path):
    """Stopped by a signal after the first epoch of two."""
    over = threading.Event()

    def terminate():
        while not over.wait(0.02):
            if list((tmp_path / "work").rglob("model_last.ckpt")):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    monkeypatch.setenv("NNDET_HANG", "1")
    helper = threading.Thread(target=terminate)
    helper.start()
    with pytest.raises(SystemExit) as ended:
        train(cell)
    over.set()
    helper.join()
    assert ended.value.code == 143
    monkeypatch.delenv("NNDET_HANG")


def test_interrupted_training_goes_on_from_its_checkpoint(train, cell, checkpoint, commands, monkeypatch, tmp_path):
    pretrained = replace(cell, init="mae", checkpoint=checkpoint, pretrained=PRETRAINED)
    interrupted(train, pretrained, monkeypatch, tmp_path)
    assert not list((tmp_path / "cell").iterdir())
    assert not (tmp_path / "work" / "lock.json").exists()
    out = train(pretrained)
    first, second = train_words(commands)
    assert second == [*(word for word in first if word != "--transfer_learning"), "--continue_training"]
    assert pd.read_csv(out / "log.csv")["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("what", ["recipe", "splits", "index"])
def test_state_of_another_recipe_or_input_is_discarded(
    train, cell, commands, monkeypatch, splits, prepared, what, tmp_path
):
    interrupted(train, cell, monkeypatch, tmp_path)
    if what == "recipe":
        cell = replace(cell, signature="recipe2")
    else:
        path = splits if what == "splits" else prepared / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    train(cell)
    first, second = train_words(commands)
    assert first == second


def test_failure_is_one_line_and_nothing_is_written(train, cell, monkeypatch, tmp_path):
    monkeypatch.setenv("NNDET_FAIL", "nndet_train")
    with pytest.raises(InputError) as error:
        train(cell)
    log = tmp_path / "work" / "nndet_train.log"
    assert str(error.value) == f"{log}: nndet_train ended with status 1: RuntimeError: CUDA out of memory"
    assert not list((tmp_path / "cell").iterdir())
    assert not (tmp_path / "work" / "lock.json").exists()


def test_a_configuration_that_nndetection_does_not_know_is_told_in_its_words(train, cell):
    wrong = replace(cell, detector={**ENTRY, "overrides": ["trainer_cfg.epochs=2"]})
    with pytest.raises(InputError, match=r"AssertionError: Could not override 'trainer_cfg\.epochs'"):
        train(wrong)


def test_missing_commands_are_told_before_anything_is_written(train, cell, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"nndet_train, .*: not found on PATH: make its environment"):
        train(cell)
    assert not (tmp_path / "work").exists()


def test_what_nndetection_does_not_tell_is_unknown(tmp_path):
    assert set(nndet_train.reported(tmp_path).values()) == {"nnDetection", None}
    (tmp_path / "meta.json").write_text(json.dumps({"torch_version": "2.0", "git": {}}))
    assert nndet_train.reported(tmp_path)["torch"] == "2.0"


def test_limits_of_a_study_keep_defaults_where_nothing_is_said():
    assert nndet_train.Limits.of({"device": None, "workers": 4, "budget_minutes": None}) == nndet_train.Limits(
        workers=4
    )


def test_a_fold_that_the_splits_lack_is_refused(train, cell):
    with pytest.raises(InputError, match="fold 7"):
        train(replace(cell, fold=7))
