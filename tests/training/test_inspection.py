import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.training import checkpoints
from detpretrain.training.adaptation import write_pretrained
from detpretrain.training.inspection import count, inspect

STRIDES, KERNELS = [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2
PLAN = {"dataset": "corpus", "plan": "tiny", "spacing": [2.0, 1.0, 1.0], "transpose": [0, 1, 2], "patch": [8, 8, 8]}
CITATION = {"type": "Pretraining Method", "name": "Some method", "apa_citations": ["Somebody (2022)."]}


def test_parameters_with_several_names_are_counted_once():
    shared = torch.zeros(3, 4)
    weights = {
        "a": shared,
        "b": shared,
        "same_values": torch.zeros(3, 4),
        "first_row": shared[0],
        "steps": torch.tensor(7),
        "bias": torch.ones(5),
    }
    assert count(weights) == {"entries": 6, "aliases": 1, "parameters": 12 + 12 + 4 + 5}


def test_a_pretrained_network(tmp_path):
    backbone = ResEnc(features=[4, 8], blocks=[1, 1], strides=STRIDES, kernels=KERNELS)
    network = backbone.unet(1, 1)
    path = tmp_path / "checkpoint.pth"
    write_pretrained(path, network, backbone, PLAN, [CITATION], {"recipe": "abc"})
    facts = inspect(path)
    assert facts["architecture"]["class"] == "ResidualEncoderUNet"
    assert facts["architecture"]["features_per_stage"] == [4, 8]
    assert facts["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["entries"] == len(network.state_dict())
    assert facts["aliases"] == facts["entries"] - len(list(network.parameters()))
    encoder = [p for name, p in network.named_parameters() if name.startswith("encoder.")]
    assert facts["encoder"]["parameters"] == sum(parameter.numel() for parameter in encoder)
    assert (facts["channels"], facts["patch"], facts["corpus"]) == (1, [8, 8, 8], "corpus")
    assert facts["spacing"] == {"tiny": [2.0, 1.0, 1.0]}
    assert facts["citations"] == ["Pretraining Method: Some method"]
    assert facts["provenance"] == {"recipe": "abc"}


def test_a_model(tmp_path):
    weights = {"encoder.stem.weight": torch.zeros(2, 3), "head.weight": torch.zeros(5)}
    plan = PLAN | {"channels": 2, "modalities": ["T1", "T2"], "classes": 1}
    content = {"weights": weights, "cell": "a/b", "detector": {"class": "x.Y"}, "backbone": {}, "plan": plan}
    checkpoints.save(tmp_path / "model.pth", content | {"precision": "bf16", "provenance": {"recipe": "abc"}})
    facts = inspect(tmp_path / "model.pth")
    assert facts["architecture"] == {"detector": {"class": "x.Y"}, "backbone": {}}
    assert (facts["entries"], facts["parameters"], facts["encoder"]["parameters"]) == (2, 11, 6)
    assert facts["channels"] == {"number": 2, "modalities": ["T1", "T2"]}
    assert (facts["cell"], facts["patch"], facts["spacing"]) == ("a/b", [8, 8, 8], [2.0, 1.0, 1.0])


def test_another_file_is_refused(tmp_path):
    checkpoints.save(tmp_path / "other.pth", {"state_dict": {}})
    with pytest.raises(InputError, match="neither a checkpoint with an adaptation plan nor"):
        inspect(tmp_path / "other.pth")


def test_what_a_foreign_plan_leaves_out_is_shown_as_absent(tmp_path):
    plan = {"key_to_encoder": "encoder.stages", "key_to_stem": None}
    weights = {"encoder.stages.0.weight": torch.zeros(3), "decoder.weight": torch.zeros(4)}
    checkpoints.save(tmp_path / "c.pth", {"network_weights": weights, "nnssl_adaptation_plan": plan})
    facts = inspect(tmp_path / "c.pth")
    assert (facts["parameters"], facts["encoder"]["parameters"]) == (7, 3)
    assert facts["patch"] is facts["channels"] is facts["provenance"] is None
