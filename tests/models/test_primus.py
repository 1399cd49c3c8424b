import pytest
import torch
from torch import nn

from detpretrain.detectors.contract import Targets
from detpretrain.detectors.deformable_detr import DeformableDETR
from detpretrain.detectors.retina_unet import RetinaUNet
from detpretrain.errors import InputError
from detpretrain.models.eva_import import eva_class
from detpretrain.models.factory import build_backbone, pretrained_part
from detpretrain.models.primus import PUBLISHED, Primus, run_blocks
from detpretrain.models.resenc import ResEnc

STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
PATCH = (8, 16, 24)
PLAN = {
    "strides": STRIDES,
    "kernels": [[3, 3, 3]] * 4,
    "patch": list(PATCH),
    "detection_levels": [2, 3],
    "channels": 2,
    "classes": 2,
    "anchors": {"z": [4], "y": [4], "x": [4]},
}


def primus(**changes):
    arguments = {"dim": 24, "depth": 2, "heads": 2, "token": 4, "pyramid_channels": 8, "patch": PATCH}
    return Primus(**arguments | {"strides": STRIDES, "detection_levels": [2, 3]} | changes)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(channels=1, **changes):
    torch.manual_seed(0)
    return primus(**changes).encoder(channels).eval()


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def reference():
    """dynamic-network-architectures' own class on the same weights."""
    eva_class()  # makes timm importable
    from dynamic_network_architectures.architectures import primus as theirs

    def make(encoder, **arguments):
        usual = {"embed_dim": 24, "patch_embed_size": (4, 4, 4), "num_classes": 1, "eva_depth": 2, "eva_numheads": 2}
        usual |= {"input_shape": PATCH, "drop_path_rate": 0.2, "init_values": 0.1, "scale_attn_inner": True}
        network = theirs.Primus(encoder.down_projection.proj.in_channels, **usual | arguments).eval()
        found = network.load_state_dict(pretrained_part(encoder).state_dict(), strict=False)
        assert not found.unexpected_keys
        assert all(name.startswith(("up_projection.", "mask_token")) for name in found.missing_keys)
        return network

    make.module = theirs
    return make


@pytest.mark.parametrize("channels", [1, 4])
def test_features_are_those_of_the_published_network_on_the_same_weights(channels, reference):
    encoder, images = made(channels), noise(2, channels, *PATCH)
    network, seen = reference(encoder), []
    network.up_projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
        (found,) = pretrained_part(encoder)(images)
    assert found.shape == (2, 24, 2, 4, 6)
    torch.testing.assert_close(found, seen[0])


def test_names_are_those_that_the_published_network_gives_for_checkpoints(reference):
    network = reference(made())
    for key in ("key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe"):
        assert getattr(Primus, key) == getattr(network, key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_the_library_s(name, reference):
    figures = reference.module._PRIMUS_CONFIGS[name.removeprefix("Primus")]
    assert PUBLISHED[name] == (figures["embed_dim"], figures["eva_depth"], figures["eva_numheads"])


def test_architecture_plans_are_a_published_name_or_what_builds_the_network(reference):
    dim, depth, heads = PUBLISHED["PrimusM"]
    usual = {"dim": dim, "depth": depth, "heads": heads, "token": 8, "patch": (16, 16, 16)}
    assert primus(**usual).architecture_plan() == {
        "arch_class_name": "PrimusM",
        "arch_kwargs": None,
        "arch_kwargs_requiring_import": None,
    }
    for change in ({"token": 4}, {"layer_scale": None}, {"depth": 2}):
        assert primus(**usual | change).architecture_plan()["arch_class_name"] == "Primus"
    plan = primus(layer_scale=None, inner_norm=False).architecture_plan()
    network = reference.module.Primus(1, num_classes=1, **plan["arch_kwargs"])
    expected = made(layer_scale=None, inner_norm=False).pretrained.state_dict()
    found = {name: value for name, value in network.state_dict().items() if name in expected}
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}


def test_maps_have_the_strides_of_the_plan_s_detection_levels():
    encoder, backbone = made(), primus()
    maps = encoder(noise(2, 1, *PATCH))
    assert maps[2].shape == (2, 8, 2, 4, 6)  # stride 4 along every axis
    assert maps[3].shape == (2, 8, 2, 2, 3)  # 4 along z, 8 along y and x
    assert (backbone.features[2], backbone.features[3]) == (8, 8)
    assert list(made(levels=1).pyramid.branches) == ["3"]  # the coarsest


def test_kept_tokens_are_computed_as_if_the_others_did_not_exist():
    encoder, images = made(), noise(2, 1, *PATCH)
    kept = torch.tensor([[0, 3, 17, 40], [5, 6, 30, 47]])
    hidden = torch.ones(2, 48, dtype=torch.bool).scatter(1, kept, False)
    hidden = hidden.view(2, 1, 2, 4, 6)
    for axis in (2, 3, 4):
        hidden = hidden.repeat_interleave(4, axis)
    with torch.no_grad():
        first = encoder.encode(images, kept)
        second = encoder.encode(torch.where(hidden, 100 * noise(*images.shape, seed=1), images), kept)
        third = encoder.encode(images + 1, kept)
    assert first.shape == (2, 4, 24)
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)


def test_keeping_every_token_in_any_order_is_the_plain_pass():
    encoder, images = made(), noise(3, 1, *PATCH)
    order = torch.stack([torch.randperm(48, generator=torch.Generator().manual_seed(s)) for s in range(3)])
    with torch.no_grad():
        plain, kept = encoder.encode(images), encoder.encode(images, order)
    expected = plain.gather(1, order[..., None].expand_as(plain))
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)


def test_kept_tokens_have_their_own_positions():
    """Against attention worked out for all tokens, in which the left-out ones are masked."""
    encoder, images = made(layer_scale=None), noise(1, 1, *PATCH)
    kept = torch.tensor([[1, 8, 20, 33, 46]])
    eva, mask = encoder.eva, torch.zeros(1, 1, 1, 48, dtype=torch.bool)
    mask[..., kept[0]] = True
    with torch.no_grad():
        tokens = encoder.down_projection(images).flatten(2).transpose(1, 2) + eva.pos_embed
        for block in eva.blocks:
            tokens = block(tokens, rope=eva.rope.get_embed(), attn_mask=mask)
        expected = eva.norm(tokens)[:, kept[0]]
        torch.testing.assert_close(encoder.encode(images, kept), expected, atol=1e-5, rtol=1e-4)
        # the same tokens elsewhere are something else: the rotary code counts, beside the learned one
        eva.pos_embed.zero_()
        assert not torch.allclose(encoder.encode(images, kept), encoder.encode(images.flip(4), kept), atol=1e-3)


def test_the_rotary_code_tells_places_apart_without_the_learned_one():
    encoder = made(layer_scale=None)
    images = noise(1, 1, *PATCH)
    moved = torch.cat(
        [images[..., :8], images[..., 12:16], images[..., 8:12], images[..., 16:]], dim=-1
    )  # tokens 2 and 3
    with torch.no_grad():
        encoder.eva.pos_embed.zero_()
        (before,), (after,) = encoder.pretrained(images), encoder.pretrained(moved)
    swapped = after[..., [0, 1, 3, 2, 4, 5]]
    assert not torch.allclose(before, swapped, atol=1e-3)


def test_training_leaves_blocks_out_by_torch_s_generator_and_evaluation_does_not():
    encoder, images = made(drop_path=0.9), noise(1, 1, *PATCH)
    with torch.no_grad():
        still = [encoder.encode(images) for _ in range(2)]
        encoder.train()
        random = []
        for seed in (0, 0, 3, 4, 5):
            torch.manual_seed(seed)
            random.append(encoder.encode(images))
    assert torch.equal(*still)
    assert torch.equal(random[0], random[1])
    assert any(not torch.equal(random[0], other) for other in random[2:])


def test_alone_blocks_are_left_out_as_by_timm():
    ours = primus(drop_path=0.6).blocks(3).train()
    theirs = eva_class()(
        embed_dim=24, depth=3, num_heads=2, ref_feat_shape=(2, 4, 6), drop_path_rate=0.6, init_values=0.1,
        scale_attn_inner=True,
    ).train()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    tokens = noise(4, 48, 24)
    found = []
    for blocks in (ours, theirs):
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(run_blocks(blocks, tokens))
    assert torch.equal(*found)
    assert not torch.equal(found[0], run_blocks(ours.eval(), tokens))


def test_an_image_s_features_do_not_depend_on_its_batch():
    encoder, images = made(2), noise(3, 2, *PATCH)
    with torch.no_grad():
        together = encoder(images)
        for place in range(3):
            alone = encoder(images[place : place + 1])
            for level in (2, 3):
                torch.testing.assert_close(together[level][place : place + 1], alone[level], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2])
def test_every_parameter_gets_a_finite_gradient_under_bf16(levels):
    encoder = made(4, levels=levels, drop_path=0.0).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = encoder(noise(2, 4, *PATCH))
        loss = sum((value.float() ** 2 * noise(*value.shape)).sum() for value in maps.values.values())
    loss.backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_bf16_features_are_near_those_in_float32():
    encoder, images = made(), noise(1, 1, *PATCH)
    with torch.no_grad():
        exact = encoder(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = encoder(images)
    for level in (2, 3):
        assert (rough[level].float() - exact[level]).abs().mean() < 0.05 * exact[level].abs().mean()


def test_a_checkpoint_fills_the_transformer_and_leaves_the_pyramid():
    encoder = made()
    part = pretrained_part(encoder)
    assert {name.partition(".")[0] for name in part.state_dict()} == {"down_projection", "eva"}
    pyramid = {name: value.clone() for name, value in encoder.pyramid.state_dict().items()}
    part.load_state_dict({name: torch.full_like(value, 0.5) for name, value in part.state_dict().items()})
    assert (encoder.eva.pos_embed == 0.5).all()
    assert (encoder.down_projection.proj.weight == 0.5).all()
    assert all(torch.equal(value, pyramid[name]) for name, value in encoder.pyramid.state_dict().items())
    plain = ResEnc([4], [1], [[1, 1, 1]], [[3, 3, 3]]).encoder(1)
    assert pretrained_part(plain) is plain


def test_plan_values_come_from_the_plan():
    entry = {"class": "detpretrain.models.primus.Primus", "dim": 24, "depth": 1, "heads": 2, "token": [2, 4, 4]}
    backbone = build_backbone(entry, PLAN)
    assert (backbone.patch, backbone.strides, backbone.detection_levels) == (list(PATCH), STRIDES, [2, 3])
    assert backbone.token_shape == (2, 4, 4)


def test_deformable_detr_runs_on_it_and_retina_u_net_says_what_it_needs():
    torch.manual_seed(0)
    small = {"hidden": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 16, "queries": 12}
    detector = DeformableDETR(backbone=primus(), plan=PLAN, norm_groups=2, candidates=12, **small)
    targets = Targets(
        [torch.tensor([[1.0, 2, 3, 5, 8, 9]])], [torch.tensor([0])], torch.zeros(1, *PATCH, dtype=torch.bool)
    )
    losses = detector(noise(1, 2, *PATCH), targets)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.encoder.parameters())
    with pytest.raises(InputError, match=r"levels 2, 3 only.*use Deformable DETR"):
        RetinaUNet(backbone=primus(), plan=PLAN, criterion=nn.Identity())


def test_images_of_another_size_are_an_input_error():
    with pytest.raises(InputError, match=r"images of \(8, 16, 16\) voxels.*\(8, 16, 24\)"):
        made()(noise(1, 1, 8, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 32}, "a head's width must be a multiple of 6"),
        ({"token": 16}, r"patch \[8, 16, 24\] does not divide into tokens"),
    ],
)
def test_numbers_that_do_not_fit_are_input_errors(changes, message):
    with pytest.raises(InputError, match=message):
        primus(**changes)
