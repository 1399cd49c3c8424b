import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.models.sparse import level_masks, sparse_encode, sparse_instance_norm
from detpretrain.pretraining.masking import block_masks
from detpretrain.pretraining.s3d import S3D, Densify

PATCH = (8, 16, 16)
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
BLOCK = 4


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make(**arguments):
    torch.manual_seed(0)
    backbone = ResEnc([4, 6, 8], [1, 2, 1], STRIDES, [[3, 3, 3]] * 3)
    return S3D(backbone=backbone, **{"block": BLOCK, "ratio": 0.75} | arguments)


def images_of(batch, seed=0):
    return torch.randn(batch, 1, *PATCH, generator=torch.Generator().manual_seed(seed))


def case(batch=2):
    images = images_of(batch)
    return images, block_masks(images, BLOCK, 0.75, range(batch))


def test_views_are_the_images_and_the_masks_of_their_seeds():
    images = images_of(3)
    same, visible = make().views(images, [5, 6, 5])
    assert same is images
    assert torch.equal(visible, block_masks(images, BLOCK, 0.75, [5, 6, 5]))


def features_and_prediction(method, images, visible):
    """What the encoder gives at every level, and the restored image."""
    features = []
    hooks = [part.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])) for part in method.densify]
    restored = method.restore(images, visible)
    for hook in hooks:
        hook.remove()
    return [*features, restored]


def trained():
    """With no branch closed by the last norm's zero weights."""
    method = make()
    optimise(method, steps=2)
    return method


def optimise(method, steps):
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        method(*method.views(images_of(2, seed=step), [2 * step, 2 * step + 1]))["mse"].backward()
        optimizer.step()


def test_hidden_voxels_change_neither_features_nor_prediction():
    method, (images, visible) = trained(), case()
    others = torch.where(visible.bool(), images, images_of(2, seed=5))
    one, other = (features_and_prediction(method, values, visible) for values in (images, others))
    assert len(one) == 4
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert method(images, visible)["mse"] != method(others, visible)["mse"]


def test_the_faithful_switch_lets_hidden_voxels_leak_into_every_level():
    method, (images, visible) = trained(), case()
    method.faithful_unmasked_input = True
    others = torch.where(visible.bool(), images, images_of(2, seed=5))
    one, other = (features_and_prediction(method, values, visible) for values in (images, others))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert make(faithful_unmasked_input=True).faithful_unmasked_input


def test_features_are_the_sparse_encoders():
    method, (images, visible) = trained(), case()
    expected, _ = sparse_encode(method.network.encoder, images * visible, visible, BLOCK)
    found = features_and_prediction(method, images, visible)[:3]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_sample_does_not_depend_on_its_batch():
    method, (images, visible) = trained(), case(3)
    together = method.restore(images, visible)
    for sample in range(3):
        alone = method.restore(images[sample : sample + 1], visible[sample : sample + 1])
        torch.testing.assert_close(alone[0], together[sample], rtol=1e-4, atol=1e-5)


def test_visible_counts_may_differ_between_samples_down_to_none():
    method, (images, visible) = trained(), case(3)
    visible[1] = 1
    visible[2] = 0
    loss = method(images, visible)["mse"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.network.encoder.parameters())
    full = method.restore(images[1:2], visible[1:2])
    torch.testing.assert_close(method.restore(images, visible)[1], full[0], rtol=1e-4, atol=1e-5)


class Constant(nn.Module):
    def forward(self, skips):
        self.skips = skips
        return torch.full((len(skips[0]), 1, *PATCH), 0.5)


def test_the_loss_is_the_mean_squared_error_over_hidden_voxels():
    method, (images, visible) = make(), case()
    method.network.decoder = Constant()
    losses = method(images, visible)
    assert list(losses) == ["mse"]
    errors = [(0.5 - images[index].item()) ** 2 for index in map(tuple, (visible == 0).nonzero().tolist())]
    assert losses["mse"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_the_decoder_gets_normed_features_where_visible_and_projected_tokens_where_hidden():
    method, (images, visible) = trained(), case()
    skips, masks = sparse_encode(method.network.encoder, images * visible, visible, BLOCK)
    method.network.decoder = decoder = Constant()
    method(images, visible)
    assert torch.equal(masks[0], visible)
    for level, (dense, skip, mask, part) in enumerate(zip(decoder.skips, skips, masks, method.densify, strict=True)):
        filled = torch.where(mask.bool(), sparse_instance_norm(skip, mask), part.token)
        expected = (
            filled if level == 0 else nn.functional.conv3d(filled, part.project.weight, part.project.bias, padding=1)
        )
        torch.testing.assert_close(dense, expected)


def test_densifying_is_done_by_hand_on_one_channel():
    densify = Densify(1, token=True, project=False)
    with torch.no_grad():
        densify.token.fill_(7.0)
    features = torch.tensor([1.0, 0, 3, 0]).view(1, 1, 1, 1, 4)
    mask = torch.tensor([1.0, 0, 1, 0]).view(1, 1, 1, 1, 4)
    # mean 2, deviation 1
    torch.testing.assert_close(densify(features, mask).flatten(), torch.tensor([-1.0, 7, 1, 7]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("block", "tokens"), [(4, [True, True, True]), (2, [True, True, False])])
def test_a_level_that_hides_nothing_has_no_token(block, tokens):
    method = make(block=block)
    assert [part.token is not None for part in method.densify] == tokens
    visible = torch.zeros(1, 1, *PATCH)
    visible[..., :block, :block, :block] = 1
    assert [bool((mask == 0).any()) for mask in level_masks(visible, STRIDES, block)] == tokens
    assert [isinstance(part.project, nn.Identity) for part in method.densify] == [True, False, False]


def test_tokens_are_small_and_come_from_torchs_generator():
    densify = Densify(2000, token=True, project=False)
    assert densify.token.shape == (1, 2000, 1, 1, 1)
    assert 0.015 < densify.token.abs().max() <= 0.02
    torch.manual_seed(3)
    first = Densify(4, token=True, project=True).state_dict()
    torch.manual_seed(3)
    again = Densify(4, token=True, project=True).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


def in_use(method):
    unused = "network.decoder.seg_layers.0."  # the head of deep supervision, which nothing here asks
    return {name: value for name, value in method.named_parameters() if not name.startswith(unused)}


@pytest.mark.parametrize("block", [4, 2])
def test_every_parameter_in_use_gets_a_finite_gradient(block):
    method = make(block=block)
    method(*method.views(images_of(2), [1, 2]))["mse"].backward()
    parameters = in_use(method)
    assert len(parameters) < len(list(method.parameters()))
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(part.token.grad.any() for part in method.densify if part.token is not None)


def test_the_network_keeps_its_keys_and_ties_and_all_of_the_encoder_learns():
    method = make()
    keys = list(method.network.state_dict())
    assert keys == list(ResEnc([4, 6, 8], [1, 2, 1], STRIDES, [[3, 3, 3]] * 3).unet(1, 1).state_dict())
    before = {name: tensor.clone() for name, tensor in method.network.encoder.state_dict().items()}
    method(*case())  # a forward pass alone changes nothing
    assert all(torch.equal(before[name], tensor) for name, tensor in method.network.encoder.state_dict().items())
    optimise(method, steps=2)
    after = method.network.state_dict()
    assert list(after) == keys
    for name in ("weight", "bias"):
        tied = [after[f"encoder.stem.convs.0.{layer}.{name}"] for layer in ("conv", "all_modules.0")]
        assert tied[0].data_ptr() == tied[1].data_ptr()
    convolutions = {name for name, module in method.network.encoder.named_modules() if isinstance(module, nn.Conv3d)}
    for name, tensor in method.network.encoder.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if not (layer in convolutions and kind == "bias"):  # the norm behind it takes it away
            assert not torch.equal(tensor, before[name]), name


def test_seeds_repeat_a_training_bit_for_bit():
    first, second = trained().state_dict(), trained().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_mixed_precision_gives_a_finite_float32_loss():
    method, (images, visible) = make(), case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(images, visible)["mse"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(method(images, visible)["mse"].item(), rel=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in in_use(method).values())


def test_some_steps_on_one_image_lower_the_loss():
    method = make()
    image = torch.linspace(-1, 1, 16).expand(1, 1, *PATCH).contiguous()  # easily guessed
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = method(*method.views(image, [step]))["mse"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_it_is_assessed_and_shown_by_what_the_network_restores():
    method, (images, visible) = make(), case()
    with torch.no_grad():
        restored = method.restore(images, visible)
        (score,) = method.assess(images, visible).values()
        rows = method.preview(images, visible)
        loss = method(images, visible)["mse"].item()
    hidden = visible == 0
    assert score.method[1] == hidden.sum()
    assert (score.method[0] / score.method[1]).item() == pytest.approx(loss, rel=1e-5)
    for sample, (*_, reconstruction, _) in enumerate(rows):
        gone = hidden[sample, 0, 4]
        assert torch.equal(reconstruction.values[gone], restored[sample, 0, 4][gone])


@pytest.mark.parametrize("ratio", [0.0, 75])
def test_the_ratio_lies_between_0_and_1(ratio):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        make(ratio=ratio)


def test_the_method_is_cited():
    (citation,) = S3D.citations
    assert citation.as_data()["type"] == "Pretraining Method"
    revisiting, spark = citation.as_data()["apa_citations"]
    assert "Revisiting MAE pre-training for 3D medical image segmentation" in revisiting
    assert "Designing BERT for convolutional networks" in spark
