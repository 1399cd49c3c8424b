import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining.mae import MAE, block_mask, masked_mse

PATCH = (8, 16, 12)


def make_mae(**arguments):
    torch.manual_seed(0)
    backbone = ResEnc([4, 8], [1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    return MAE(backbone=backbone, **{"block": 4, "ratio": 0.75} | arguments)


def images_of(batch, seed=0):
    return torch.randn(batch, 1, *PATCH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "block", "ratio", "masked"),
    [
        ((160, 160, 160), 16, 0.75, 750),  # the published setting
        ((8, 16, 12), 4, 0.75, 18),
        ((8, 16, 12), 2, 0.6, 115),  # int(0.6 x 192)
        ((4, 4, 8), 4, 0.9, 1),
    ],
)
def test_exactly_the_ratio_of_whole_blocks_is_masked(shape, block, ratio, masked):
    visible = block_mask(shape, block, ratio, seed=3)
    assert visible.shape == shape
    assert set(visible.unique().tolist()) == {0.0, 1.0}
    assert int((visible == 0).sum()) == masked * block**3
    d, h, w = (size // block for size in shape)
    blocks = visible.view(d, block, h, block, w, block).permute(0, 2, 4, 1, 3, 5).reshape(d * h * w, -1)
    assert (blocks == blocks[:, :1]).all()


def test_a_seed_gives_its_mask_whatever_the_state_of_the_generator():
    torch.manual_seed(1)
    first = block_mask(PATCH, 4, 0.75, seed=7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(block_mask(PATCH, 4, 0.75, seed=7), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(block_mask(PATCH, 4, 0.75, seed=8), first)


def test_every_block_is_masked_equally_often():
    count = torch.stack([block_mask((8, 8, 8), 4, 0.75, seed)[::4, ::4, ::4] == 0 for seed in range(600)]).sum(dim=0)
    assert count.sum() == 600 * 6
    assert (count.float() / 600 - 0.75).abs().max() < 4 * (0.75 * 0.25 / 600) ** 0.5


def test_samples_of_a_batch_have_masks_of_their_own():
    mae, images = make_mae(), images_of(3)
    masks = mae.visible(images, [5, 6, 5])
    assert masks.shape == (3, 1, *PATCH)
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(mae.visible(images[1:2], [6])[0], masks[1])  # whatever the batch


def test_the_loss_is_the_mean_squared_error_over_masked_voxels():
    restored, images = images_of(2, seed=1), images_of(2, seed=2)
    visible = make_mae().visible(images, [1, 2])
    errors = [(restored[index] - images[index]).item() ** 2 for index in map(tuple, (visible == 0).nonzero().tolist())]
    assert len(errors) == 2 * 18 * 64
    assert masked_mse(restored, images, visible).item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    # what the network says where it could look is of no interest
    assert masked_mse(restored + 5 * visible, images, visible).item() == pytest.approx(sum(errors) / len(errors))


class Recorder(nn.Module):
    def forward(self, images):
        self.seen = images
        return torch.zeros_like(images)


def test_the_network_sees_zeros_where_the_image_is_masked_and_nothing_else():
    mae, images = make_mae(), images_of(2)
    mae.network = Recorder()
    loss = mae(*mae.views(images, [3, 4]))["mse"]
    visible = mae.visible(images, [3, 4]).bool()
    assert torch.equal(mae.network.seen[visible], images[visible])
    assert not mae.network.seen[~visible].any()
    assert loss.item() == pytest.approx((images[~visible] ** 2).mean().item(), rel=1e-5)


def test_hidden_voxels_reach_the_loss_only_as_target():
    """The prediction does not change with what is hidden: the loss's gradient with respect to it is that of the target."""
    mae, images = make_mae(), images_of(1).requires_grad_()
    visible = mae.visible(images, [9]).bool()
    mae(*mae.views(images, [9]))["mse"].backward()
    with torch.no_grad():
        restored = mae.network(images * visible)
        expected = -2 * (restored - images) / (~visible).sum()
    torch.testing.assert_close(images.grad[~visible], expected[~visible])


def test_every_weight_in_use_gets_a_finite_gradient():
    mae = make_mae()
    losses = mae(*mae.views(images_of(2), [1, 2]))
    assert list(losses) == ["mse"]
    losses["mse"].backward()
    gradients = {name: parameter.grad for name, parameter in mae.network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["encoder.stem.convs.0.conv.weight"].any()


def test_some_steps_on_one_image_lower_the_loss():
    mae = make_mae()
    image = (
        torch.linspace(-1, 1, 12).expand(1, 1, *PATCH).contiguous()
    )  # the same everywhere along z and y: easily guessed
    optimizer = torch.optim.AdamW(mae.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = mae(*mae.views(image, [step]))["mse"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_a_patch_that_blocks_do_not_tile_is_an_input_error():
    with pytest.raises(InputError, match=r"patch \(8, 16, 12\) is not divisible by the block of 8"):
        make_mae(block=8).views(images_of(1), [0])


def test_nothing_to_mask_is_an_input_error():
    with pytest.raises(InputError, match="masks nothing"):
        block_mask((8, 8, 8), 8, 0.75, seed=0)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 75])
def test_the_ratio_lies_between_0_and_1(ratio):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        make_mae(ratio=ratio)


def test_the_method_is_cited():
    (citation,) = MAE.citations
    assert citation.as_data()["type"] == "Pretraining Method"
    assert "Masked autoencoders are scalable vision learners" in citation.as_data()["apa_citations"][0]
