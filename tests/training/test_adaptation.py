"""Checkpoints in nnssl's layout are built here by dynamic-network-architectures itself, without this package's writer."""

import copy
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.training import adaptation, checkpoints

METHOD = {"type": "Pretraining Method", "name": "x", "apa_citations": ["X (2020)."]}
FEATURES, BLOCKS = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
SMALL = (4, 6, 8, 9, 10, 10)
STRIDES = [[1] * 3] + [[2] * 3] * 5
FIRST = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")


def kwargs_of(features, blocks=BLOCKS, strides=STRIDES):
    return {
        "n_stages": len(features), "features_per_stage": list(features), "conv_op": nn.Conv3d,
        "kernel_sizes": [[3] * 3] * len(features), "strides": strides, "n_blocks_per_stage": list(blocks),
        "conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


def backbone(features=SMALL, blocks=BLOCKS, strides=STRIDES, kernels=None):
    return ResEnc(list(features), list(blocks), strides[: len(features)], kernels or [[3] * 3] * len(features))


def numbered(module):
    """Every parameter gets values of its own, without a random number."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32).add_(17 * number).remainder_(509)
            parameter.copy_(values.div_(509).sub_(0.5).view_as(parameter))
    return module


def nnssl_content(network, patch=(160, 160, 160)):
    """A released checkpoint: three keys, the architecture by its name, tuples where nnssl has tuples."""
    configuration = {"data_identifier": "nnsslPlans_onemmiso", "spacing": [1, 1, 1], "patch_size": patch}
    return {
        "network_weights": network.state_dict(),
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": "ResEncL",
                "arch_kwargs": None,
                "arch_kwargs_requiring_import": None,
            },
            "pretrain_plan": {"dataset_name": "Dataset745_OpenMind", "configurations": {"onemmiso": configuration}},
            "pretrain_num_input_channels": 1,
            "recommended_downstream_patchsize": patch,
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stem",
            "keys_to_in_proj": FIRST,
            "key_to_lpe": None,
        },
        "citations": [METHOD],
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unet():
    """ResEnc-L's U-Net with few features: the same 956 entries."""
    network = numbered(ResidualEncoderUNet(1, num_classes=1, n_conv_per_stage_decoder=1, **kwargs_of(SMALL))).eval()
    assert len(network.state_dict()) == 956
    return network


@pytest.fixture
def released(unet):
    """Content of a released checkpoint of the small network: by name it would be ResEnc-L, so it gives its figures."""
    content = nnssl_content(unet)
    content["nnssl_adaptation_plan"]["architecture_plans"] = architecture_of(SMALL)
    content["network_weights"] = dict(content["network_weights"])
    return content


def architecture_of(features, **other):
    figures = {key: value for key, value in kwargs_of(features).items() if isinstance(value, list | int)} | other
    return {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": figures, "arch_kwargs_requiring_import": []}


@pytest.fixture
def load(tmp_path):
    """``load(content, channels, ...)`` -> (encoder, report)."""

    def run(content, channels=1, made_by=None, **options):
        torch.save(content, tmp_path / "c.pth")
        encoder = (made_by or backbone()).encoder(channels).eval()
        return encoder, adaptation.load_encoder(encoder, tmp_path / "c.pth", channels, **options)

    return run


def refusal(load, content, *arguments, **options):
    with pytest.raises(InputError) as error:
        load(content, *arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_holds(encoder, network):
    theirs = network.encoder.state_dict()
    assert list(theirs) == list(encoder.state_dict())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def image_of(dtype=torch.float32):
    return torch.randn(1, 1, 64, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(0))


def assert_same_features(encoder, network):
    """What matters in the end."""
    with torch.no_grad():
        for ours, theirs in zip(encoder(image_of()), network.encoder(image_of()), strict=True):
            assert torch.equal(ours, theirs)


# --- reading what nnssl writes ------------------------------------------------------------------------------------------


def test_all_of_a_released_encoder_is_loaded(load, released, unet):
    encoder, report = load(released, backbone=backbone())
    assert report.entries == len(encoder.state_dict()) == 448
    assert report.parameters == sum(p.numel() for p in unet.encoder.parameters())
    assert (report.stem, report.conflicts, list(report.patients), report.provenance) == (None, 0, [], {})
    assert report.citations == [METHOD]
    assert_holds(encoder, unet)
    assert_same_features(encoder, unet)
    for text in ("448", f"{report.parameters:,}", "1 input channel(s)"):
        assert text in str(report)
    assert "stem" not in str(report)
    assert "all_modules" not in str(report)


def test_the_full_size_loads_by_its_name(tmp_path, monkeypatch):
    for name in ("kaiming_uniform_", "kaiming_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    network = numbered(ResidualEncoderUNet(1, num_classes=1, n_conv_per_stage_decoder=1, **kwargs_of(FEATURES)))
    assert sum(parameter.numel() for parameter in network.parameters()) == 102_348_965
    torch.save(nnssl_content(network), tmp_path / "c.pth")
    made = backbone(FEATURES)
    encoder = made.encoder(4)
    report = adaptation.load_encoder(encoder, tmp_path / "c.pth", 4, backbone=made)
    assert report.entries == 448
    assert report.parameters == 90_296_576 + 3 * 32 * 27
    theirs = network.encoder.state_dict()
    for name, value in encoder.state_dict().items():
        expected = theirs[name]
        if f"encoder.{name.removesuffix('.weight')}" in FIRST:
            expected = torch.cat([expected] * 4, dim=1) / 4
        assert torch.equal(value, expected), name
    (tmp_path / "c.pth").unlink()


def test_equal_channels_give_the_features_of_one(load, released, unet):
    encoder, report = load(released, 4)
    assert report.input_channels == 4
    first, second = (encoder.state_dict()[f"{key.removeprefix('encoder.')}.weight"] for key in FIRST)
    assert first.shape == (4, 4, 3, 3, 3)
    assert torch.equal(first, second)
    image = image_of(torch.float64)
    with torch.no_grad():
        many = encoder.double()(image.expand(-1, 4, -1, -1, -1))
        one = copy.deepcopy(unet.encoder).double()(image)
    for ours, theirs in zip(many, one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_do_not_matter(load, released, unet, prefix):
    released["network_weights"] = {f"{prefix}{name}": value for name, value in released["network_weights"].items()}
    assert_holds(load(released)[0], unet)


def test_lists_and_json_numbers_do_for_tuples(load, released, unet):
    plan = released["nnssl_adaptation_plan"]
    plan["keys_to_in_proj"] = list(FIRST)
    plan["architecture_plans"]["arch_kwargs"] |= {"kernel_sizes": 3, "strides": (1, 2, 2, 2, 2, (2, 2, 2))}
    assert_holds(load(released, backbone=backbone())[0], unet)


def test_citations_in_the_plan_are_read_too(load, released):
    released["nnssl_adaptation_plan"]["citations"] = released.pop("citations")
    assert load(released)[1].citations == [METHOD]
    del released["nnssl_adaptation_plan"]["citations"]
    assert load(released)[1].citations == []
    assert "citations: not a list" in refusal(load, released | {"citations": ["a paper"]})


# --- aliases that are no longer tied ------------------------------------------------------------------------------------


def untied(released):
    """As S3D's converter leaves them: ``.conv`` and ``.norm`` have their initial values, ``.all_modules`` are trained."""
    weights = released["network_weights"]
    stale = [name for name in weights if ".conv." in name or ".norm." in name]
    assert len(stale) * 2 < len(weights)
    for name in stale:
        weights[name] = torch.full_like(weights[name], 1000.0)
    return len([name for name in stale if name.startswith(("encoder.stem", "encoder.stages"))])


@pytest.mark.parametrize("channels", [1, 2])
def test_trained_aliases_win_and_are_counted(load, released, unet, channels):
    number = untied(released)
    encoder, report = load(released, channels)
    assert report.conflicts == number == 224
    assert "224 tensors had an alias with another value" in str(report)
    if channels == 1:
        assert_holds(encoder, unet)
    trained = unet.state_dict()[f"{FIRST[1]}.weight"]
    for key in FIRST:
        value = encoder.state_dict()[f"{key.removeprefix('encoder.')}.weight"]
        assert torch.equal(value, torch.cat([trained] * channels, dim=1) / channels)


def test_equal_copies_are_no_conflict(load, released):
    released["network_weights"] = {name: value.clone() for name, value in released["network_weights"].items()}
    assert load(released)[1].conflicts == 0


def test_two_values_of_one_tensor_leave_the_file_alone(load, released, tmp_path):
    untied(released)
    load(released)
    assert (checkpoints.load(tmp_path / "c.pth")["network_weights"][f"{FIRST[0]}.weight"] == 1000).all()


# --- stems ----------------------------------------------------------------------------------------------------------------


def stem_of(channels, value):
    made = numbered(ResidualEncoder(channels, **kwargs_of(SMALL)).stem)
    with torch.no_grad():
        made.convs[0].conv.weight.add_(value)
    return made.state_dict()


STEMS = {"351_0": (1, 3.0), "004": (1, 5.0), "two": (2, 7.0)}


def with_stems(released, key, ids=STEMS):
    """``encoder.stem.ID...`` instead of ``encoder.stem...``; ``key``: what the plan points at."""
    plan = released["nnssl_adaptation_plan"]
    weights = {name: value for name, value in released["network_weights"].items() if ".stem." not in name}
    for name, arguments in ids.items():
        for inner, value in stem_of(*arguments).items():
            weights[f"encoder.stem.{name}.{inner}"] = weights[f"decoder.encoder.stem.{name}.{inner}"] = value
    plan |= {
        "key_to_stem": key,
        "keys_to_in_proj": [f"{key}.convs.0.{alias}" for alias in ("conv", "all_modules.0")],
    }
    return released | {"network_weights": weights}


def first_weight(encoder):
    return encoder.stem.convs[0].conv.weight.detach()


def expected_weight(channels, value, repeats=1):
    return torch.cat([stem_of(channels, value)["convs.0.conv.weight"]] * repeats, dim=1) / repeats


def test_the_plan_points_at_the_default_of_several_stems(load, released):
    """As the published MultiTalent checkpoints do."""
    content = with_stems(released, "encoder.stem.351_0")
    encoder, report = load(content, backbone=backbone())
    assert (report.stem, report.entries) == ("351_0", 448)
    assert "stem 351_0" in str(report)
    assert torch.equal(first_weight(encoder), expected_weight(1, 3.0))
    encoder, report = load(content, stem="004")
    assert report.stem == "004"
    assert torch.equal(first_weight(encoder), expected_weight(1, 5.0))
    encoder, _ = load(content, 3, stem="004")
    assert torch.equal(first_weight(encoder), expected_weight(1, 5.0, 3))


def test_a_stem_keeps_its_own_channels(load, released):
    content = with_stems(released, "encoder.stem.351_0")
    assert torch.equal(first_weight(load(content, 2, stem="two")[0]), expected_weight(2, 7.0))
    assert torch.equal(first_weight(load(content, 4, stem="two")[0]), expected_weight(2, 7.0, 2))
    for channels in (1, 3):
        assert f"its stem takes 2 channels, the data set has {channels}" in refusal(load, content, channels, stem="two")


@pytest.mark.parametrize("name", ["CT", "ct", "Ct"])
def test_a_container_of_stems_defaults_to_ct(load, released, name):
    content = with_stems(released, "encoder.stem", {"MR": (1, 9.0), name: (1, 4.0)})
    encoder, report = load(content)
    assert report.stem == name
    assert torch.equal(first_weight(encoder), expected_weight(1, 4.0))
    assert torch.equal(first_weight(load(content, stem="MR")[0]), expected_weight(1, 9.0))


def test_a_container_with_one_stem_needs_no_name(load, released):
    encoder, report = load(with_stems(released, "encoder.stem", {"PET": (1, 2.0)}))
    assert report.stem == "PET"
    assert torch.equal(first_weight(encoder), expected_weight(1, 2.0))


def test_a_container_may_name_a_stem_in_its_projections(load, released):
    content = with_stems(released, "encoder.stem", {"PET": (1, 2.0)})
    content["nnssl_adaptation_plan"]["keys_to_in_proj"] = [
        "encoder.stem.PET.convs.0.conv",
        "encoder.stem.PET.convs.0.all_modules.0",
    ]
    assert torch.equal(first_weight(load(content, 2)[0]), expected_weight(1, 2.0, 2))


def test_several_stems_without_a_default_are_listed(load, released):
    content = with_stems(released, "encoder.stem", {"MR": (1, 9.0), "PET": (1, 4.0)})
    assert "has the stems MR, PET and names no default: choose one with stem:" in refusal(load, content)


def test_an_unknown_stem_is_refused(load, released):
    assert "has one stem, without an id: remove stem: x" in refusal(load, released, stem="x")
    content = with_stems(released, "encoder.stem.351_0")
    assert "no stem 'x', its stems are 004, 351_0, two" in refusal(load, content, stem="x")
    content["nnssl_adaptation_plan"]["key_to_stem"] = "encoder.stem.gone"
    assert "no stem 'gone', its stems are 004, 351_0, two" in refusal(load, content)


# --- another encoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compared", [True, False], ids=["architectures", "tensors"])
@pytest.mark.parametrize(
    ("other", "part"),
    [
        (backbone((*SMALL[:-1], 11)), "stage 5"),
        (backbone((5, *SMALL[1:])), "stem|stage 0"),
        (backbone(blocks=(1, 3, 5, 6, 6, 6)), "stage 2"),
        (backbone(blocks=(1, 3, 3, 6, 6, 6)), "stage 2"),
        (backbone(SMALL[:5], BLOCKS[:5]), "stage 5"),
        (backbone((*SMALL, 10), (*BLOCKS, 1), [*STRIDES, [2] * 3]), "stage 6"),
        (backbone(kernels=[[1, 3, 3]] + [[3] * 3] * 5), "stem|stage 0"),
    ],
    ids=["last width", "first width", "one block more", "one block less", "one stage less", "one stage more", "kernel"],
)
def test_another_encoder_is_refused_and_left_as_it_was(released, tmp_path, other, part, compared):
    torch.save(released, tmp_path / "c.pth")
    encoder = other.encoder(1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match=f"^{tmp_path}/c.pth: .*({part}) differs.*nothing was loaded") as error:
        adaptation.load_encoder(encoder, tmp_path / "c.pth", 1, backbone=other if compared else None)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_other_strides_show_in_no_tensor_and_are_refused(load, released, unet):
    flat = [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    other = backbone(strides=flat)
    message = refusal(load, released, made_by=other, backbone=other)
    assert "stage 2 differs: stride 2x2x2, the detector's backbone has 1x2x2; nothing was loaded" in message
    load(released, made_by=other)  # nobody can know without the recipe


def test_without_figures_only_tensors_are_compared(load, released, unet):
    for plans in (None, {"arch_class_name": "MyNet", "arch_kwargs": None}):
        released["nnssl_adaptation_plan"]["architecture_plans"] = plans
        assert_holds(load(released, backbone=backbone())[0], unet)


def test_the_named_resenc_l_is_compared_by_its_known_figures(load, unet):
    message = refusal(load, nnssl_content(unet), backbone=backbone())
    assert "stage 0 differs: features 32, the detector's backbone has 4" in message


@pytest.mark.parametrize("figures", [{"strides": "all"}, {"n_stages": 5}, {"features_per_stage": [{}] * 6}])
def test_figures_that_make_no_sense_are_one_line(load, released, figures):
    released["nnssl_adaptation_plan"]["architecture_plans"] = architecture_of(SMALL, **figures)
    assert "architecture_plans cannot be read" in refusal(load, released, backbone=backbone())


def test_partial_checkpoint_is_refused_and_names_the_stage(load, released):
    for name in [name for name in released["network_weights"] if name.startswith("encoder.stages.1.")]:
        del released["network_weights"][name]
    assert "c.pth: lacks stages.1." in refusal(load, released)
    assert "stage 1 differs" in refusal(load, released)


def test_a_checkpoint_with_nothing_where_the_plan_points_is_refused(load, released):
    released["network_weights"] = {n: v for n, v in released["network_weights"].items() if n.startswith("decoder.")}
    assert "no tensors under encoder.stages, where its plan has the encoder" in refusal(load, released)


@pytest.mark.parametrize("key", ["network_weights", "nnssl_adaptation_plan"])
@pytest.mark.parametrize("value", [None, [1]])
def test_checkpoint_of_another_format_is_refused(load, released, key, value):
    assert f"no {key}" in refusal(load, released | {key: value})


@pytest.mark.parametrize("key", ["key_to_encoder", "key_to_stem", "keys_to_in_proj", "pretrain_num_input_channels"])
def test_plan_without_a_needed_key_is_refused(load, released, key):
    del released["nnssl_adaptation_plan"][key]
    assert f"nnssl_adaptation_plan has no {key}" in refusal(load, released)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(load, released, tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "pwned",)

    assert "which is code and is not run" in refusal(load, released | {"citations": Code()})
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_line(released, tmp_path, part):
    torch.save(released, tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match="not a readable checkpoint") as error:
        adaptation.load_encoder(backbone().encoder(1), tmp_path / "c.pth", 1)
    assert "\n" not in str(error.value)


def test_stems_of_another_form_are_refused(load, released):
    for stems in ([1], {"CT": None}):
        assert "stems: not a mapping of ids" in refusal(load, released | {"stems": stems})
