import zipfile

import pytest
import torch

from detpretrain.engines import nndet_model
from detpretrain.errors import InputError
from detpretrain.training import checkpoints

FACTS = {"engine": "nndet", "cell": "d/n/scratch/fold0-seed0", "fold": 0}


@pytest.fixture
def folder(tmp_path):
    """nnDetection's folder of a fold."""
    made = tmp_path / "fold0"
    made.mkdir()
    for name in ("model_last.ckpt", "config.yaml", "plan.json", "splits.pkl", "model_best.ckpt", "train.log"):
        (made / name).write_text(f"content of {name}")
    return made


def test_what_is_packed_comes_back_and_nothing_else(folder, tmp_path):
    nndet_model.write(tmp_path / "model.pth", folder, FACTS)
    assert nndet_model.read_facts(tmp_path / "model.pth") == FACTS
    nndet_model.unpack(tmp_path / "model.pth", tmp_path / "again" / "fold0")
    found = {path.name: path.read_text() for path in (tmp_path / "again" / "fold0").iterdir()}
    assert found == {
        name: f"content of {name}" for name in ("model_last.ckpt", "config.yaml", "plan.json", "splits.pkl")
    }


@pytest.mark.parametrize("name", ["model_last.ckpt", "config.yaml"])
def test_half_a_model_is_not_packed(folder, tmp_path, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: nndet_train has not written it: see"):
        nndet_model.write(tmp_path / "model.pth", folder, FACTS)
    assert not (tmp_path / "model.pth").exists()


def test_a_file_that_climbs_out_is_left_in_the_zip(folder, tmp_path):
    nndet_model.write(tmp_path / "model.pth", folder, FACTS)
    with zipfile.ZipFile(tmp_path / "model.pth", "a") as archive:
        archive.writestr("nndetection/../../evil", "x")
        archive.writestr("nndetection/evil", "x")
    nndet_model.unpack(tmp_path / "model.pth", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("evil"))


def test_models_of_others_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "ours.pth")
    (tmp_path / "text.pth").write_text("x")
    for name in ("ours.pth", "text.pth"):
        assert not nndet_model.is_one(tmp_path / name)
        with pytest.raises(InputError, match="not a model of nnDetection"):
            nndet_model.read_facts(tmp_path / name)
    with pytest.raises(InputError, match=r"nowhere\.pth: file not found"):
        nndet_model.read_facts(tmp_path / "nowhere.pth")


def test_damaged_models_are_one_line(folder, tmp_path):
    path = tmp_path / "model.pth"
    nndet_model.write(path, folder, FACTS)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"content of model_last", b"content of model_lost"))
    with pytest.raises(InputError, match=r"model\.pth: damaged \(Bad CRC-32"):
        nndet_model.unpack(path, tmp_path / "again")
    path.write_bytes(whole[:-40])
    with pytest.raises(InputError, match="not a model of nnDetection"):
        nndet_model.read_facts(path)


def test_our_own_commands_say_whose_model_it_is(folder, tmp_path):
    nndet_model.write(tmp_path / "model.pth", folder, FACTS)
    with pytest.raises(InputError, match=r"model\.pth: is nnDetection's own model, for its own commands"):
        checkpoints.load(tmp_path / "model.pth")
