import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining.mae import MAE
from detpretrain.pretraining.masking import block_masks

PATCH = (8, 16, 12)


def make_mae(**arguments):
    torch.manual_seed(0)
    backbone = ResEnc([4, 8], [1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    return MAE(backbone=backbone, **{"block": 4, "ratio": 0.75} | arguments)


def images_of(batch, seed=0):
    return torch.randn(batch, 1, *PATCH, generator=torch.Generator().manual_seed(seed))


def test_views_are_the_images_and_the_masks_of_their_seeds():
    images = images_of(3)
    same, visible = make_mae().views(images, [5, 6, 5])
    assert same is images
    assert torch.equal(visible, block_masks(images, 4, 0.75, [5, 6, 5]))


class Recorder(nn.Module):
    def forward(self, images):
        self.seen = images
        return torch.zeros_like(images)


def test_the_network_sees_zeros_where_the_image_is_masked_and_nothing_else():
    mae, images = make_mae(), images_of(2)
    mae.network = Recorder()
    _, visible = views = mae.views(images, [3, 4])
    loss, visible = mae(*views)["mse"], visible.bool()
    assert torch.equal(mae.network.seen[visible], images[visible])
    assert not mae.network.seen[~visible].any()
    assert loss.item() == pytest.approx((images[~visible] ** 2).mean().item(), rel=1e-5)


def test_hidden_voxels_reach_the_loss_only_as_target():
    """The prediction does not change with what is hidden: the loss's gradient with respect to it is that of the target."""
    mae, images = make_mae(), images_of(1).requires_grad_()
    visible = mae.views(images, [9])[1].bool()
    mae(*mae.views(images, [9]))["mse"].backward()
    with torch.no_grad():
        restored = mae.network(images * visible)
        expected = -2 * (restored - images) / (~visible).sum()
    torch.testing.assert_close(images.grad[~visible], expected[~visible])


def test_hidden_voxels_change_neither_features_nor_prediction():
    mae, (images, visible) = make_mae(), make_mae().views(images_of(2), [1, 2])
    features = []
    mae.network.encoder.register_forward_hook(lambda *hooked: features.append(hooked[-1]))
    others = torch.where(visible.bool(), images, images_of(2, seed=5))
    assert torch.equal(mae.restore(images, visible), mae.restore(others, visible))
    assert all(torch.equal(one, other) for one, other in zip(*features, strict=True))
    assert mae(images, visible)["mse"] != mae(others, visible)["mse"]


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


def test_it_is_assessed_and_shown_by_what_the_network_restores():
    mae, (images, visible) = make_mae(), make_mae().views(images_of(2), [1, 2])
    with torch.no_grad():
        restored = mae.network(images * visible)
        (score,) = mae.assess(images, visible).values()
        rows = mae.preview(images, visible)
    hidden = visible == 0
    assert score.method[1] == hidden.sum()
    assert (score.method[0] / score.method[1]).item() == pytest.approx(mae(images, visible)["mse"].item(), rel=1e-5)
    for sample, (*_, reconstruction, _) in enumerate(rows):
        gone = hidden[sample, 0, 4]
        assert torch.equal(reconstruction.values[gone], restored[sample, 0, 4][gone])


@pytest.mark.parametrize("ratio", [0.0, 75])
def test_the_ratio_lies_between_0_and_1(ratio):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        make_mae(ratio=ratio)


def test_the_method_is_cited():
    (citation,) = MAE.citations
    assert citation.as_data()["type"] == "Pretraining Method"
    assert "Masked autoencoders are scalable vision learners" in citation.as_data()["apa_citations"][0]
