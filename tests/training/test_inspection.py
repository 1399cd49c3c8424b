import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.training import checkpoints
from detpretrain.training.adaptation import write_pretrained
from detpretrain.training.inspection import count, inspect

STRIDES, KERNELS = [[1, 1, 1], [1, 2, 2]], [[1, 3, 3], [3, 3, 3]]
PLAN = {
    "dataset": "corpus", "plan": "tiny", "spacing": [2.0, 1.0, 1.0], "transpose": [0, 1, 2], "patch": [8, 8, 8],
    "intensity": {"scheme": [{"scheme": "zscore"}], "nonzero_mask": False}, "strides": STRIDES, "kernels": KERNELS,
}  # fmt: skip
CITATION = {"type": "Pretraining Method", "name": "Some method", "apa_citations": ["Somebody (2022)."]}
STAGES = ["0: 4 features, 1 blocks, stride 1x1x1, kernel 1x3x3", "1: 8 features, 2 blocks, stride 1x2x2, kernel 3x3x3"]


@pytest.fixture
def backbone():
    return ResEnc(features=[4, 8], blocks=[1, 2], strides=STRIDES, kernels=KERNELS)


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


def test_a_pretrained_network(backbone, tmp_path):
    network = backbone.unet(1, 1)
    path = tmp_path / "checkpoint.pth"
    patients = [{"space": "tcia", "ids": ["a", "b"]}, {"space": None, "ids": ["c"]}]
    write_pretrained(path, network, backbone, PLAN, [CITATION], {"recipe": "abc"}, patients=patients)
    facts = inspect(path)
    assert (facts["architecture"], facts["stages"]) == ("ResidualEncoderUNet", STAGES)
    assert facts["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["entries"] == len(network.state_dict())
    assert facts["aliases"] == facts["entries"] - len(list(network.parameters()))
    encoder = [p for name, p in network.named_parameters() if name.startswith("encoder.")]
    assert facts["encoder"]["parameters"] == sum(parameter.numel() for parameter in encoder)
    assert (facts["alias conflicts"], facts["stems"], facts["neck"]) == (0, [], "none")
    assert (facts["channels"], facts["patch"], facts["corpus"]) == (1, [8, 8, 8], "corpus")
    assert facts["spacing"] == {"tiny": [2.0, 1.0, 1.0]}
    assert facts["patients"] == ["2 ids of the space tcia", "1 ids"]
    assert [line.partition(":")[0] for line in facts["citations"]] == [
        "Architecture, Residual encoder U-Net (ResEnc)", "Framework, The Missing Piece", "Pretraining Method, Some method",
    ]  # fmt: skip
    assert facts["citations"][-1] == "Pretraining Method, Some method: Somebody (2022)."
    assert facts["provenance"] == {"recipe": "abc"}


def test_stems_and_their_channels(backbone, tmp_path):
    path, network = tmp_path / "c.pth", backbone.unet(1, 1)
    others = {"MR": backbone.stem(3)}
    write_pretrained(path, network, backbone, PLAN, [], {}, stems=others, default_stem="CT")
    facts = inspect(path)
    assert facts["stems"] == ["CT: 1 channel(s), default", "MR: 3 channel(s)"]
    assert facts["encoder"]["entries"] == len(network.encoder.state_dict())


@pytest.mark.parametrize(
    ("key", "ids", "expected"),
    [
        ("encoder.stem.351_0", ["351_0", "004"], ["004: 1 channel(s)", "351_0: 1 channel(s), default"]),
        ("encoder.stem", ["MR", "ct"], ["MR: 1 channel(s)", "ct: 1 channel(s), default"]),
        ("encoder.stem", ["MR", "PET"], ["MR: 1 channel(s)", "PET: 1 channel(s)"]),
    ],
)
def test_stems_of_other_writers(backbone, tmp_path, key, ids, expected):
    network = backbone.unet(1, 1)
    write_pretrained(tmp_path / "c.pth", network, backbone, PLAN, [], {})
    content = checkpoints.load(tmp_path / "c.pth")
    stem = {
        n.removeprefix("encoder.stem."): v
        for n, v in content["network_weights"].items()
        if n.startswith("encoder.stem")
    }
    weights = {
        name: value for name, value in content["network_weights"].items() if not name.startswith("encoder.stem.")
    }
    content["network_weights"] = weights | {f"encoder.stem.{i}.{n}": v for i in ids for n, v in stem.items()}
    content["nnssl_adaptation_plan"]["key_to_stem"] = key
    content["nnssl_adaptation_plan"]["keys_to_in_proj"] = [f"{key}.convs.0.conv", f"{key}.convs.0.all_modules.0"]
    checkpoints.save(tmp_path / "c.pth", content)
    facts = inspect(tmp_path / "c.pth")
    assert facts["stems"] == expected
    assert facts["encoder"]["entries"] == len(network.encoder.state_dict())


def test_alias_conflicts_are_counted(backbone, tmp_path):
    write_pretrained(tmp_path / "c.pth", backbone.unet(1, 1), backbone, PLAN, [], {})
    content = checkpoints.load(tmp_path / "c.pth")
    content["network_weights"]["encoder.stem.convs.0.conv.bias"] = torch.full((4,), 9.0)
    content["network_weights"]["decoder.stages.0.convs.0.conv.bias"] = torch.full((4,), 9.0)  # of no use to a detector
    checkpoints.save(tmp_path / "c.pth", content)
    assert inspect(tmp_path / "c.pth")["alias conflicts"] == 1


def test_an_architecture_by_name(tmp_path):
    plan = {"architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None}}
    checkpoints.save(tmp_path / "c.pth", {"network_weights": {}, "nnssl_adaptation_plan": plan})
    stages = inspect(tmp_path / "c.pth")["stages"]
    assert len(stages) == 6
    assert stages[-1] == "5: 320 features, 6 blocks, stride 2x2x2, kernel 3x3x3"


def test_a_model(tmp_path):
    weights = {"encoder.stem.weight": torch.zeros(2, 3), "head.weight": torch.zeros(5)}
    plan = PLAN | {"channels": 2, "modalities": ["T1", "T2"], "classes": 1}
    backbone = {"class": "y.Z", "features": [4, 8], "blocks": [1, 2]}
    content = {"weights": weights, "cell": "a/b", "detector": {"class": "x.Y"}, "backbone": backbone, "plan": plan}
    checkpoints.save(tmp_path / "model.pth", content | {"precision": "bf16", "provenance": {"recipe": "abc"}})
    facts = inspect(tmp_path / "model.pth")
    assert facts["architecture"] == {"detector": {"class": "x.Y"}, "backbone": backbone}
    assert facts["stages"] == STAGES
    assert (facts["entries"], facts["parameters"], facts["encoder"]["parameters"]) == (2, 11, 6)
    assert facts["channels"] == {"number": 2, "modalities": ["T1", "T2"]}
    assert (facts["cell"], facts["patch"], facts["spacing"]) == ("a/b", [8, 8, 8], [2.0, 1.0, 1.0])
    assert facts["patients"] == facts["citations"] == []


def test_another_file_is_refused(tmp_path):
    checkpoints.save(tmp_path / "other.pth", {"state_dict": {}})
    with pytest.raises(InputError, match="neither a checkpoint with an adaptation plan nor"):
        inspect(tmp_path / "other.pth")


def test_what_a_foreign_plan_leaves_out_is_shown_as_absent(tmp_path):
    plan = {"key_to_encoder": "encoder.stages", "key_to_stem": None}
    weights = {"encoder.stages.0.weight": torch.zeros(3), "decoder.weight": torch.zeros(4)}
    checkpoints.save(tmp_path / "c.pth", {"network_weights": weights, "nnssl_adaptation_plan": plan})
    facts = inspect(tmp_path / "c.pth")
    assert facts["parameters"] == 7
    assert facts["encoder"] == (
        "cannot be found: nnssl_adaptation_plan has no key_to_stem: write the checkpoint's plan again"
    )
    assert facts["patch"] is facts["channels"] is facts["provenance"] is None
    assert facts["stages"] == facts["citations"] == facts["patients"] == []
