import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from detpretrain import leaves, study
from detpretrain.detectors.deformable_detr import DeformableDETR
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.models.factory import pretrained_part
from detpretrain.models.primus import PUBLISHED, Primus
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining.token_mae import TokenMAE
from detpretrain.training import adaptation, checkpoints, inspection, vit_weights
from detpretrain.training.export import export
from detpretrain.training.pretrain import Corpus, Outputs, Pretraining, pretrain
from detpretrain.training.probe import Job, features, probe_baseline, probe_checkpoint
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
PATCH = (8, 16, 12)
BACKBONE = {
    "class": "detpretrain.models.primus.Primus",
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "token": 4,
    "pyramid_channels": 8,
}


def plan_of(patch=PATCH):
    return {
        "dataset": "corpus",
        "plan": "small",
        "transpose": [0, 1, 2],
        "spacing": [1.0, 1.0, 1.0],
        "patch": list(patch),
        "strides": STRIDES,
        "kernels": [[3, 3, 3]] * 3,
        "detection_levels": [1, 2],
        "intensity": {"scheme": [{"scheme": "zscore"}] * 4, "nonzero_mask": False},
        "channels": 1,
        "classes": 1,
    }


def primus(patch=PATCH, **changes):
    arguments = {name: value for name, value in BACKBONE.items() if name != "class"}
    return Primus(**arguments | {"patch": patch, "strides": STRIDES, "detection_levels": [1, 2]} | changes)


@pytest.fixture
def written(tmp_path):
    """A checkpoint as pre-training writes it, no value an initial one, and its network."""
    torch.manual_seed(0)
    method = TokenMAE(backbone=primus())
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape))
    path = tmp_path / "checkpoint.pth"
    adaptation.write_pretrained(path, method.network, primus(), plan_of(), [], {})
    return path, method.network


def published(path, network, **changes):
    """The same weights as published checkpoints of nnssl's EvaMAE have them (nnFoundationViT): plan, wrapper, figures, tuples."""
    figures = {
        "input_channels": 1,
        "embed_dim": 24,
        "patch_embed_size": (4, 4, 4),
        "output_channels": 1,
        "input_shape": PATCH,
        "encoder_eva_depth": 2,
        "encoder_eva_numheads": 2,
        "decoder_eva_depth": 2,
        "decoder_eva_numheads": 2,
    }
    plan = {
        "architecture_plans": {
            "arch_class_name": "PrimusX",
            "arch_kwargs": figures,
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {"configurations": {"noresample": {"patch_size": PATCH}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": PATCH,
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "keys_to_in_proj": ("down_projection.proj",),
        "key_to_lpe": "eva.pos_embed",
    }
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan | changes, "citations": []}, path)
    return path


def test_the_plan_has_the_published_keys(written):
    content = checkpoints.load(written[0])
    plan = content["nnssl_adaptation_plan"]
    assert (plan["key_to_encoder"], plan["key_to_stem"]) == ("eva", "down_projection")
    assert (plan["keys_to_in_proj"], plan["key_to_lpe"]) == (["down_projection.proj"], "eva.pos_embed")
    assert plan["pretrain_plan"]["configurations"]["small"]["patch_size"] == list(PATCH)
    assert plan["architecture_plans"]["arch_class_name"] == "Primus"
    assert any(citation["name"] == "Primus" for citation in content["citations"])
    assert {"eva.pos_embed", "down_projection.proj.weight", "eva.blocks.1.attn.q_proj.weight"} <= set(
        content["network_weights"]
    )


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("form", ["ours", "published"])
def test_the_transformer_is_filled_whole_and_the_pyramid_left_fresh(written, tmp_path, form, channels):
    path, network = written
    path = path if form == "ours" else published(tmp_path / "published.pth", network)
    torch.manual_seed(5)
    encoder = primus().encoder(channels).eval()
    pyramid = {name: value.clone() for name, value in encoder.pyramid.state_dict().items()}
    report = adaptation.load_encoder(encoder, path, channels, backbone=primus())
    assert report.entries == len(pretrained_part(encoder).state_dict())
    assert str(report).endswith("input channel(s); starts fresh: pyramid")
    assert all(torch.equal(value, pyramid[name]) for name, value in encoder.pyramid.state_dict().items())
    image = torch.randn(1, 1, *PATCH)
    with torch.no_grad():  # equal channels give the features of one
        found, expected = encoder.encode(image.expand(-1, channels, -1, -1, -1)), network.eval().encode(image)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_position_codes_are_interpolated_between_the_centres_of_tokens():
    code = torch.tensor([0.0, 1.0]).view(1, 2, 1).repeat(1, 1, 3)  # two tokens along x
    doubled = vit_weights.resampled(code, (1, 1, 2), (1, 1, 4))
    torch.testing.assert_close(doubled[0, :, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert doubled.is_contiguous()


def test_interpolation_is_trilinear_on_the_grid_of_tokens():
    """Against linear interpolation by numpy, one axis after the other."""
    grid, wanted = (2, 3, 4), (4, 3, 2)
    code = torch.randn(1, 24, 5, generator=torch.Generator().manual_seed(0))
    values = code.view(*grid, 5).numpy()
    for axis, (size, length) in enumerate(zip(grid, wanted, strict=True)):
        places = (np.arange(length) + 0.5) * size / length - 0.5
        values = np.apply_along_axis(lambda line, at=places, n=size: np.interp(at, np.arange(n), line), axis, values)
    found = vit_weights.resampled(code, grid, wanted)
    torch.testing.assert_close(found.view(*wanted, 5), torch.from_numpy(values).float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["ours", "published"])
def test_another_patch_gets_the_position_code_interpolated_and_everything_else_as_it_is(written, tmp_path, form):
    path, network = written
    path = path if form == "ours" else published(tmp_path / "published.pth", network)
    patch = (16, 8, 12)
    encoder = primus(patch).encoder(1)
    report = adaptation.load_encoder(encoder, path, 1, backbone=primus(patch))
    assert "interpolated to the patch: eva.pos_embed; starts fresh: pyramid" in str(report)
    own = network.state_dict()
    for name, value in pretrained_part(encoder).state_dict().items():
        if name != "eva.pos_embed":
            assert torch.equal(value, own[name]), name
    expected = vit_weights.resampled(own["eva.pos_embed"], (2, 4, 3), (4, 2, 3))
    assert torch.equal(encoder.eva.pos_embed, expected)
    assert not torch.equal(expected, own["eva.pos_embed"])  # as many tokens, other places
    encoder(torch.randn(1, 1, *patch))


def test_a_detector_learns_from_a_filled_encoder(written):
    torch.manual_seed(0)
    small = {"hidden": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 16, "queries": 12}
    detector = DeformableDETR(backbone=primus(), plan=plan_of(), norm_groups=2, candidates=12, **small)
    adaptation.load_encoder(detector.encoder, written[0], 1, backbone=primus())
    assert torch.equal(detector.encoder.eva.pos_embed, written[1].eva.pos_embed)
    assert detector.encoder.eva.pos_embed.requires_grad


def test_a_published_name_tells_the_heads():
    dim, depth, heads = PUBLISHED["PrimusM"]
    plan = {"architecture_plans": {"arch_class_name": "PrimusM", "arch_kwargs": None}}
    same = primus((8, 8, 8), dim=dim, depth=depth, heads=heads, token=8)
    vit_weights.check_architecture("a.pth", plan, same)
    with pytest.raises(InputError, match="a PrimusM of 12 heads, the detector's backbone has 6"):
        vit_weights.check_architecture("a.pth", plan, primus((8, 8, 8), dim=dim, depth=depth, heads=6, token=8))


def test_other_heads_are_refused_though_every_tensor_fits(written):
    wider = primus(heads=4)
    encoder = wider.encoder(1)
    adaptation.load_encoder(encoder, written[0], 1)  # nothing shows it without the recipe
    with pytest.raises(InputError, match=r"a Primus of 2 heads, the detector's backbone has 4; nothing was loaded"):
        adaptation.load_encoder(encoder, written[0], 1, backbone=wider)


def test_transformers_and_convolutions_do_not_fill_each_other(written, tmp_path):
    resenc = ResEnc([4, 8, 16], [1, 1, 1], STRIDES, [[3, 3, 3]] * 3)
    with pytest.raises(InputError, match="holds a Primus, the detector's backbone is a ResEnc; nothing was loaded"):
        adaptation.load_encoder(resenc.encoder(1), written[0], 1, backbone=resenc)
    path = tmp_path / "resenc.pth"
    adaptation.write_pretrained(path, resenc.unet(1, 1), resenc, plan_of(), [], {})
    with pytest.raises(InputError, match="holds a ResidualEncoderUNet, the detector's backbone is a Primus"):
        adaptation.load_encoder(primus().encoder(1), path, 1, backbone=primus())
    with pytest.raises(InputError, match="differs from the detector's backbone; nothing was loaded"):
        adaptation.load_encoder(primus().encoder(1), path, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pretrain_plan": {"configurations": {"a": {"patch_size": (8, 8, 12)}}}},
            "24 positions, its plan's patch makes 2 x 2 x 3",
        ),
        ({"pretrain_plan": {"configurations": {"a": {"patch_size": None}}}}, "names no patch_size under pretrain_plan"),
        ({"keys_to_in_proj": ("down_projection.conv",)}, "lacks down_projection.conv.weight"),
    ],
)
def test_a_position_code_without_its_patch_is_an_input_error(written, tmp_path, changes, message):
    path = published(tmp_path / "published.pth", written[1], **changes)
    encoder = primus().encoder(1)
    before = encoder.eva.pos_embed.clone()
    with pytest.raises(InputError, match=message):
        adaptation.load_encoder(encoder, path, 1, backbone=primus())
    assert torch.equal(encoder.eva.pos_embed, before)


def test_a_deeper_transformer_is_refused(written):
    deeper = primus(depth=3)
    with pytest.raises(InputError, match=r"lacks eva.blocks.2.*nothing was loaded"):
        adaptation.load_encoder(deeper.encoder(1), written[0], 1, backbone=deeper)


def test_inspection_tells_what_it_is(written):
    facts = inspection.inspect(written[0])
    assert facts["architecture"] == "Primus"
    assert facts["patch"] == list(PATCH)


def test_an_exported_detector_s_encoder_loads_again(written, tmp_path):
    torch.manual_seed(1)
    encoder = primus().encoder(1)
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()} | {
        "head.weight": torch.ones(1)
    }
    model = {"weights": weights, "detector": {"class": "x"}, "backbone": BACKBONE, "plan": plan_of()}
    torch.save(model, tmp_path / "model.pth")
    export(tmp_path / "model.pth", tmp_path / "out.pth")
    assert set(checkpoints.load(tmp_path / "out.pth")["network_weights"]) == set(pretrained_part(encoder).state_dict())
    other = primus().encoder(1)
    adaptation.load_encoder(other, tmp_path / "out.pth", 1, backbone=primus())
    for name, value in pretrained_part(encoder).state_dict().items():
        assert torch.equal(value, pretrained_part(other).state_dict()[name]), name


def test_a_probe_reads_the_map_of_tokens():
    """At the centre of a token, where nothing is interpolated, its features are the token's own."""
    part = pretrained_part(primus(token=(1, 1, 1), patch=(4, 4, 6)).encoder(1)).eval()
    data = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0)).numpy()
    positions = np.array(list(itertools.product((0, 3), (1, 2), (0, 2, 5))))
    found = features(part, data, positions, np.array([4, 4, 6]), torch.device("cpu"))
    with torch.no_grad():
        tokens = part.encode(torch.from_numpy(data)[None])[0].view(4, 4, 6, 24)
    expected = tokens[tuple(torch.from_numpy(positions).T)]
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def smoke_job():
    """``smoke_job(init, backbone)``: a pre-training of the smoke study, one step long."""
    chosen = study.load([ROOT / "config" / "smoke.yaml"], ROOT)

    def make(init, backbone):
        defining = leaves.pretrain(chosen, init, backbone)
        return Pretraining(
            name=f"{init}/{backbone}",
            method=defining["method"],
            backbone=defining["backbone"],
            recipe=defining["recipe"] | {"epochs": 1, "steps_per_epoch": 1},
            recipe_name="r",
            seed=0,
            signature="signature",
        )

    return make


def train(job, corpus, folder):
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    outputs = Outputs(*(folder / name for name in ("checkpoint.pth", "log.csv", "assessment.json", "preview.npz")))
    try:
        parts = [Corpus(corpus / "task", corpus / "preprocessed", "phantoms")]
        pretrain(job, parts, folder / "work", outputs, Runtime("cpu", 0, None))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    return outputs


def test_a_transformer_is_pre_trained_and_probed(smoke_job, corpus, organs, tmp_path):
    job = smoke_job("mae_vit", "primus")
    outputs = train(job, corpus, tmp_path)
    (score,) = read_json(outputs.assessment)["scores"]
    assert score["baseline_name"] == "neighbour-mean in-fill"
    settings = {"train_voxels": 60, "val_voxels": 60, "repeats": 1}
    probed, baseline = tmp_path / "probe.json", tmp_path / "baseline.json"
    probe = Job(
        backbone=job.backbone,
        preprocessed=organs / "preprocessed",
        splits=organs / "task" / "splits.json",
        settings=settings,
        seed=0,
        signature="s",
    )
    probe_baseline(probe, baseline)
    probe_checkpoint(probe, outputs.checkpoint, baseline, probed)
    assert read_json(probed)["pretrained"]["features"] == [
        job.backbone["dim"]
    ]  # the tokens' map, without a fresh pyramid


@pytest.mark.parametrize(("init", "backbone"), [("mae", "primus"), ("voco", "primus"), ("mae_vit", "resenc")])
def test_a_method_for_another_family_of_backbones_stops_with_one_line(smoke_job, corpus, tmp_path, init, backbone):
    with pytest.raises(InputError, match=r"^pre-training: \w+ is for \w+ backbones, \w+ is a \w+ one: give") as caught:
        train(smoke_job(init, backbone), corpus, tmp_path)
    assert "\n" not in str(caught.value)
