import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.training import checkpoints
from detpretrain.training.adaptation import load_encoder, write_pretrained
from detpretrain.training.export import export

STRIDES, KERNELS = [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2
ENTRY = {"class": "detpretrain.models.resenc.ResEnc", "features": [4, 8], "blocks": [1, 2]}
PLAN = {
    "dataset": "lidc", "plan": "tiny", "spacing": [2.0, 1.0, 1.0], "transpose": [0, 1, 2], "patch": [8, 8, 8], "channels": 2,
    "intensity": {"scheme": [{"scheme": "ct"}, {"scheme": "zscore"}], "nonzero_mask": False},
    "strides": STRIDES, "kernels": KERNELS,
}  # fmt: skip
METHOD = {"type": "Pretraining Method", "name": "Some method", "apa_citations": ["Somebody (2022)."]}
PATIENTS = [{"space": None, "ids": ["a"]}]
BACKBONE = ResEnc([4, 8], [1, 2], STRIDES, KERNELS)


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return module


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = BACKBONE.encoder(2), nn.Linear(3, 3)


@pytest.fixture
def model(tmp_path):
    """A fine-tuned model's file and its detector."""
    detector = randomised(Detector())
    content = {
        "weights": checkpoints.cpu_weights(detector), "cell": "a/b", "detector": {"class": "x.Y"}, "backbone": ENTRY,
        "precision": "bf16", "plan": PLAN, "provenance": {"recipe": "abc"}, "citations": [METHOD], "patients": PATIENTS,
    }  # fmt: skip
    checkpoints.save(tmp_path / "model.pth", content)
    return tmp_path / "model.pth", detector


@pytest.fixture
def pretrained(tmp_path):
    """A checkpoint with the stems CT (in the network) and MR, and both stems."""
    network, other = randomised(BACKBONE.unet(1, 1)), randomised(BACKBONE.stem(2))
    path = tmp_path / "c.pth"
    write_pretrained(path, network, BACKBONE, PLAN, [METHOD], {"recipe": "abc"}, stems={"MR": other}, default_stem="CT",
                     patients=PATIENTS)  # fmt: skip
    return path, network, {"CT": network.encoder.stem, "MR": other}


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_the_encoder_of_a_model_becomes_a_checkpoint(model, tmp_path):
    path, detector = model
    assert export(path, tmp_path / "new" / "out.pth") == "62 tensors, 2 input channel(s)"
    encoder = BACKBONE.encoder(2)
    report = load_encoder(encoder, tmp_path / "new" / "out.pth", 2, backbone=BACKBONE)
    assert_same(encoder.state_dict(), detector.encoder.state_dict())
    assert report.entries == len(encoder.state_dict()) == 62
    assert (report.provenance, list(report.patients)) == ({"recipe": "abc"}, PATIENTS)
    assert [citation["type"] for citation in report.citations] == ["Pretraining Method", "Architecture", "Framework"]
    content = checkpoints.load(tmp_path / "new" / "out.pth")
    assert set(content) == {"network_weights", "nnssl_adaptation_plan", "citations", "provenance", "patients"}
    assert all(name.startswith("encoder.") for name in content["network_weights"])
    plan = content["nnssl_adaptation_plan"]
    assert (plan["pretrain_num_input_channels"], plan["pretrain_plan"]["dataset_name"]) == (2, "lidc")
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"]


def test_a_model_has_no_stems_to_choose(model, tmp_path):
    with pytest.raises(InputError, match="leave out --stem CT"):
        export(model[0], tmp_path / "out.pth", "CT")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(("stem", "used", "channels"), [(None, "CT", 1), ("CT", "CT", 1), ("MR", "MR", 2)])
def test_a_stem_becomes_the_plain_one_everywhere(pretrained, tmp_path, stem, used, channels):
    path, network, stems = pretrained
    assert f"{channels} input channel(s)" in export(path, tmp_path / "out.pth", stem)
    content = checkpoints.load(tmp_path / "out.pth")
    assert set(content) == {"network_weights", "nnssl_adaptation_plan", "citations", "provenance", "patients"}
    expected = BACKBONE.unet(channels, 1)
    assert list(content["nnssl_adaptation_plan"]["keys_to_in_proj"]) == list(BACKBONE.keys_to_in_proj)
    expected.load_state_dict(content["network_weights"], strict=True)  # which is a whole plain network
    assert_same(expected.encoder.stem.state_dict(), stems[used].state_dict())
    assert_same(expected.encoder.stages.state_dict(), network.encoder.stages.state_dict())
    assert_same(expected.decoder.stages.state_dict(), network.decoder.stages.state_dict())
    encoder = BACKBONE.encoder(channels)
    report = load_encoder(encoder, tmp_path / "out.pth", channels, backbone=BACKBONE)
    assert report.stem is None
    assert_same(encoder.stem.state_dict(), stems[used].state_dict())


@pytest.mark.parametrize("key", ["encoder.stem.351_0", "encoder.stem"])
def test_stems_inside_the_network_become_one(pretrained, tmp_path, key):
    path, _, stems = pretrained
    content = checkpoints.load(path)
    del content["stems"], content["default_stem"]
    weights = {name: value for name, value in content["network_weights"].items() if ".stem." not in f".{name}"}
    for name, stem in {"351_0": stems["CT"], "004": stems["MR"]}.items():
        for inner, value in stem.state_dict().items():
            weights[f"module.encoder.stem.{name}.{inner}"] = weights[f"module.decoder.encoder.stem.{name}.{inner}"] = (
                value
            )
    plan = content["nnssl_adaptation_plan"]
    plan |= {"key_to_stem": key, "keys_to_in_proj": [f"{key}.convs.0.conv", f"{key}.convs.0.all_modules.0"]}
    checkpoints.save(tmp_path / "several.pth", content | {"network_weights": weights, "optimizer_state": {"step": 1}})
    export(tmp_path / "several.pth", tmp_path / "out.pth", "004")
    out = checkpoints.load(tmp_path / "out.pth")
    assert "optimizer_state" not in out
    network = BACKBONE.unet(2, 1)
    network.load_state_dict(out["network_weights"], strict=True)
    assert_same(network.encoder.stem.state_dict(), stems["MR"].state_dict())
    assert out["nnssl_adaptation_plan"]["key_to_stem"] == "encoder.stem"
    if key == "encoder.stem":
        with pytest.raises(InputError, match="has the stems 004, 351_0 and names no default"):
            export(tmp_path / "several.pth", tmp_path / "again.pth")


def test_untied_aliases_come_out_tied(pretrained, tmp_path):
    path, network, _ = pretrained
    content = checkpoints.load(path)
    for name in list(content["network_weights"]):
        if ".conv." in name or ".norm." in name:
            content["network_weights"][name] = torch.full_like(content["network_weights"][name], 9.0)
    del content["stems"], content["default_stem"]
    checkpoints.save(tmp_path / "s3d.pth", content)
    export(tmp_path / "s3d.pth", tmp_path / "out.pth")
    assert_same(checkpoints.load(tmp_path / "out.pth")["network_weights"], network.state_dict())


def test_a_single_stem_has_no_id(pretrained, tmp_path):
    export(pretrained[0], tmp_path / "one.pth")
    with pytest.raises(InputError, match="has one stem, without an id: remove stem: CT"):
        export(tmp_path / "one.pth", tmp_path / "out.pth", "CT")


def test_an_unknown_stem_leaves_no_file(pretrained, tmp_path):
    with pytest.raises(InputError, match="no stem 'PET', its stems are CT, MR"):
        export(pretrained[0], tmp_path / "out.pth", "PET")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("through", ["same name", "a link"])
def test_the_source_is_never_overwritten(pretrained, tmp_path, through):
    path = pretrained[0]
    before, output = path.read_bytes(), path
    if through == "a link":
        output = tmp_path / "link.pth"
        output.symlink_to(path)
    with pytest.raises(InputError, match="is the checkpoint itself: give another file with -o"):
        export(path, output)
    assert path.read_bytes() == before


def test_another_file_is_refused(tmp_path):
    checkpoints.save(tmp_path / "other.pth", {"state_dict": {}})
    with pytest.raises(InputError, match=r"neither a model\.pth nor a checkpoint with an adaptation plan"):
        export(tmp_path / "other.pth", tmp_path / "out.pth")


def test_a_model_without_an_encoder_is_refused(model, tmp_path):
    content = checkpoints.load(model[0])
    content["weights"] = {"head.weight": torch.zeros(3)}
    checkpoints.save(tmp_path / "m.pth", content)
    with pytest.raises(InputError, match="the model has no encoder"):
        export(tmp_path / "m.pth", tmp_path / "out.pth")


def test_an_output_that_cannot_be_written_is_one_line(model, tmp_path):
    with pytest.raises(InputError, match="cannot be written") as error:
        export(model[0], model[0] / "out.pth")
    assert "\n" not in str(error.value)
