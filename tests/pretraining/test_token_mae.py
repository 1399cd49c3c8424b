import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.models.primus import Primus
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining.contract import check_suits, suits
from detpretrain.pretraining.mae import MAE
from detpretrain.pretraining.masking import block_masks, masked_mse
from detpretrain.pretraining.token_mae import TokenMAE
from detpretrain.pretraining.voco import VoCo

PATCH = (8, 16, 12)
TOKENS = 2 * 4 * 3


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def primus(**changes):
    arguments = {
        "dim": 24,
        "depth": 2,
        "heads": 2,
        "patch": PATCH,
        "token": 4,
        "strides": [[1] * 3],
        "detection_levels": [0],
    }
    return Primus(**arguments | changes)


def make_mae(token=4, patch=PATCH, drop_path=0.2, **arguments):
    torch.manual_seed(0)
    return TokenMAE(backbone=primus(token=token, patch=patch, drop_path=drop_path), **arguments).eval()


def images_of(batch, seed=0, patch=PATCH):
    return torch.randn(batch, 1, *patch, generator=torch.Generator().manual_seed(seed))


def test_views_are_those_of_mae_with_the_token_as_block():
    same, visible = make_mae().views(images := images_of(3), [5, 6, 5])
    assert same is images
    assert torch.equal(visible, block_masks(images, 4, 0.75, [5, 6, 5]))
    assert (visible[:, 0, ::4, ::4, ::4].sum(dim=(1, 2, 3)) == TOKENS - int(0.75 * TOKENS)).all()


@pytest.mark.parametrize(("token", "block", "ratio"), [(4, None, 0.75), (4, 4, 0.3), (2, 4, 0.75), ((2, 4, 4), 4, 0.6)])
def test_kept_tokens_are_the_wholly_visible_ones_and_all_of_them(token, block, ratio):
    mae, images = make_mae(token, block=block, ratio=ratio), images_of(3)
    _, visible = mae.views(images, [1, 2, 3])
    kept = mae.kept_tokens(visible)
    sides = mae.token
    for sample in range(3):
        expected, number = [], 0
        for z in range(0, PATCH[0], sides[0]):
            for y in range(0, PATCH[1], sides[1]):
                for x in range(0, PATCH[2], sides[2]):
                    cell = visible[sample, 0, z : z + sides[0], y : y + sides[1], x : x + sides[2]]
                    assert cell.min() == cell.max()  # a token is hidden as a whole
                    if cell.all():
                        expected.append(number)
                    number += 1
        assert kept[sample].tolist() == expected


def test_the_blocks_see_the_kept_tokens_alone():
    mae, (images, visible) = make_mae(), make_mae().views(images_of(2), [3, 4])
    seen = []
    mae.network.eva.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    mae.network.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    mae(images, visible)
    assert seen == [(2, TOKENS - int(0.75 * TOKENS), 24), (2, TOKENS, 24)]


def test_hidden_voxels_change_neither_tokens_nor_prediction():
    mae, (images, visible) = make_mae(), make_mae().views(images_of(2), [1, 2])
    others = torch.where(visible.bool(), images, 50 * images_of(2, seed=5))
    kept = mae.kept_tokens(visible)
    with torch.no_grad():
        assert torch.equal(mae.network.encode(images, kept), mae.network.encode(others, kept))
        assert torch.equal(mae.restore(images, visible), mae.restore(others, visible))
        assert mae(images, visible)["mse"] != mae(others, visible)["mse"]
        visible_changed = torch.where(visible.bool(), others + 1, images)
        assert not torch.allclose(mae.restore(images, visible), mae.restore(visible_changed, visible))


def test_with_nothing_hidden_the_tokens_are_those_of_the_plain_transformer():
    mae, images = make_mae(), images_of(2)
    torch.manual_seed(1)
    plain = primus().transformer(1).eval()
    plain.load_state_dict({key: value for key, value in mae.network.state_dict().items() if key in plain.state_dict()})
    with torch.no_grad():
        everything = torch.arange(TOKENS).expand(2, -1)
        found = mae.network.encode(images, everything)
        torch.testing.assert_close(mae.network.as_map(found), plain(images)[0], atol=1e-6, rtol=1e-5)


def test_the_decoder_gets_tokens_at_their_places_and_the_mask_token_elsewhere():
    mae, (images, visible) = make_mae(), make_mae().views(images_of(2), [3, 4])
    network, kept = mae.network, mae.kept_tokens(visible)
    seen = []
    network.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.mask_token.fill_(7.0)
        network.decoder.pos_embed.zero_()
        network.restore(images, kept)
        encoded = network.encode(images, kept)
    for sample in range(2):
        for token in range(TOKENS):
            place = (kept[sample] == token).nonzero().flatten().tolist()
            expected = encoded[sample, place[0]] if place else torch.full((24,), 7.0)
            torch.testing.assert_close(seen[0][sample, token], expected)


def test_the_loss_and_the_figure_are_mae_s():
    mae, (images, visible) = make_mae(), make_mae().views(images_of(2), [1, 2])
    with torch.no_grad():
        restored, losses = mae.restore(images, visible), mae(images, visible)
        ((name, score),) = mae.assess(images, visible).items()
    assert restored.shape == images.shape
    assert list(losses) == ["mse"]
    assert torch.equal(losses["mse"], masked_mse(restored, images, visible))
    assert name == "MSE of masked voxels"
    assert (score.method[0] / score.method[1]).item() == pytest.approx(losses["mse"].item())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_weight_gets_a_finite_gradient(precision):
    mae = make_mae(drop_path=0.0).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        mae(*mae.views(images_of(2), [1, 2]))["mse"].backward()
    for name, parameter in mae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_sample_s_prediction_does_not_depend_on_its_batch():
    mae, images = make_mae(), images_of(3)
    _, visible = mae.views(images, [1, 2, 3])
    with torch.no_grad():
        together = mae.restore(images, visible)
        for place in range(3):
            alone = mae.restore(images[place : place + 1], visible[place : place + 1])
            torch.testing.assert_close(together[place : place + 1], alone, atol=1e-5, rtol=1e-4)


def test_some_steps_on_one_image_lower_the_loss():
    """Columns of their own heights: what is hidden can be read off what is visible in the same column."""
    torch.manual_seed(0)
    mae = make_mae(drop_path=0.0, ratio=0.5).train()
    image = torch.randn(1, 1, 1, 16, 12, generator=torch.Generator().manual_seed(1))
    image = image.expand(1, 1, *PATCH).contiguous()
    optimizer = torch.optim.AdamW(mae.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        optimizer.zero_grad()
        loss = mae(*mae.views(image, [step]))["mse"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_the_network_s_tensors_are_named_as_nnssl_s_and_hold_the_encoder():
    network, backbone = make_mae().network, primus()
    assert {name.partition(".")[0] for name in network.state_dict()} == {
        "down_projection",
        "eva",
        "decoder",
        "up_projection",
        "mask_token",
    }
    expected = backbone.transformer(1).state_dict()
    assert {name: network.state_dict()[name].shape for name in expected} == {n: v.shape for n, v in expected.items()}
    assert len(network.decoder.blocks) == 2
    assert len(make_mae(decoder_depth=1).network.decoder.blocks) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": 4, "block": 6}, r"blocks of 6 voxels, tokens of \[4, 4, 4\]"),
        ({"token": 2, "block": 1}, "give a block that is a multiple"),
        ({"token": 3, "patch": (9, 9, 9)}, "use powers of two"),
        ({"ratio": 0.0}, "must lie between 0 and 1"),
    ],
)
def test_values_that_do_not_fit_are_input_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        make_mae(**arguments)


def test_methods_and_backbones_of_another_family_do_not_suit_each_other():
    resenc = ResEnc([4], [1], [[1, 1, 1]], [[3, 3, 3]])
    assert suits(MAE, resenc)
    assert suits(TokenMAE, primus())
    check_suits(TokenMAE, primus())
    with pytest.raises(InputError, match=r"TokenMAE is for transformer backbones, ResEnc is a convolutional one: give"):
        check_suits(TokenMAE, resenc)
    with pytest.raises(InputError, match=r"VoCo is for convolutional backbones, Primus is a transformer one"):
        check_suits(VoCo, primus())
