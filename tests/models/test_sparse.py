import copy

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import nn
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.models.sparse import last_stage_is_dense, level_masks, sparse_encode, sparse_instance_norm

PATCH = (8, 16, 16)
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
BLOCK = 4
PARTS = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": STRIDES,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"affine": True, "eps": 0.01},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "return_skips": True,
}
ENCODERS = {
    "resenc": lambda: ResEnc([4, 6, 8], [1, 2, 1], STRIDES, PARTS["kernel_sizes"]).encoder(1),
    "resenc, pooled": lambda: ResidualEncoder(1, n_blocks_per_stage=1, pool_type="avg", **PARTS),
    "resenc, bottleneck blocks": lambda: ResidualEncoder(
        1, n_blocks_per_stage=2, block=BottleneckD, bottleneck_channels=3, **PARTS
    ),
    "plain": lambda: PlainConvEncoder(1, n_conv_per_stage=2, **PARTS),
    "plain, max-pooled": lambda: PlainConvEncoder(1, n_conv_per_stage=1, pool="max", **PARTS),
    "plain, without norm": lambda: PlainConvEncoder(1, n_conv_per_stage=1, **PARTS | {"norm_op": None}),
}


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(name="resenc"):
    """An encoder as after some training: no weight or bias has a special value."""
    encoder = ENCODERS[name]()
    with torch.no_grad():
        for number, parameter in enumerate(encoder.parameters()):
            parameter.add_(0.3 * noise(*parameter.shape, seed=number))
    return encoder


def blocks_visible(counts, seed=0):
    """``[B, 1, *PATCH]`` masks with so many visible blocks per sample."""
    grid = [size // BLOCK for size in PATCH]
    masks = []
    for sample, count in enumerate(counts):
        order = torch.randperm(grid[0] * grid[1] * grid[2], generator=torch.Generator().manual_seed(seed + sample))
        masks.append((order < count).float().view(1, *grid))
    masks = torch.stack(masks)
    for axis in (2, 3, 4):
        masks = masks.repeat_interleave(BLOCK, dim=axis)
    return masks


def gathered_norm(features, mask, weight, bias, eps):
    """Instance norm of each sample's visible voxels alone, put back among zeros."""
    result = torch.zeros_like(features)
    for sample in range(len(features)):
        seen = mask[sample, 0].bool()
        if seen.any():
            values = features[sample][:, seen]
            mean = values.mean(dim=1, keepdim=True)
            deviation = (values.var(dim=1, unbiased=False, keepdim=True) + eps).sqrt()
            result[sample][:, seen] = (values - mean) / deviation * weight[:, None] + bias[:, None]
    return result


def hooked(encoder, masks):
    """A copy of the dense encoder with hooks that do to the output of every layer what sparseness asks for."""
    encoder = copy.deepcopy(encoder)
    by_shape = {tuple(mask.shape[2:]): mask for mask in masks}

    def masked(module, inputs, output):
        return output * by_shape[tuple(output.shape[2:])]

    def normed(module, inputs, output):
        (values,) = inputs
        return gathered_norm(values, by_shape[tuple(values.shape[2:])], module.weight, module.bias, module.eps)

    for module in encoder.modules():
        if isinstance(module, nn.Conv3d | nn.AvgPool3d | nn.MaxPool3d):
            module.register_forward_hook(masked)
        elif isinstance(module, nn.InstanceNorm3d):
            module.register_forward_hook(normed)
    return encoder


# --- encoders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_with_everything_visible_it_is_the_dense_encoder(name):
    encoder, images = make(name), noise(2, 1, *PATCH)
    skips, masks = sparse_encode(encoder, images, torch.ones_like(images), BLOCK)
    dense = encoder(images)
    assert len(skips) == len(masks) == 3
    for skip, expected, mask in zip(skips, dense, masks, strict=True):
        torch.testing.assert_close(skip, expected, rtol=1e-4, atol=1e-4)
        assert mask.shape == (2, 1, *skip.shape[2:])
        assert (mask == 1).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_with_parts_hidden_every_layer_works_on_visible_voxels_only(name):
    encoder, images = make(name), noise(3, 1, *PATCH)
    visible = blocks_visible([3, 9, 20])
    skips, masks = sparse_encode(encoder, images * visible, visible, BLOCK)
    expected = hooked(encoder, masks)(images * visible)
    for skip, reference, mask in zip(skips, expected, masks, strict=True):
        torch.testing.assert_close(skip, reference, rtol=1e-4, atol=1e-4)
        assert not skip[(mask == 0).expand_as(skip)].any()


def test_gradients_are_those_of_the_reference():
    encoder, visible = make(), blocks_visible([3, 9])
    images = noise(2, 1, *PATCH) * visible
    reference = hooked(encoder, level_masks(visible, STRIDES, BLOCK))
    for skips in (sparse_encode(encoder, images, visible, BLOCK)[0], reference(images)):
        sum((skip * noise(*skip.shape, seed=level)).sum() for level, skip in enumerate(skips)).backward()
    for (name, parameter), other in zip(encoder.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_a_dense_last_stage_is_dense_even_without_a_stride_of_its_own():
    strides = [[1, 1, 1], [2, 2, 2], [1, 1, 1]]
    encoder, visible = ResEnc([4, 6, 8], [1, 1, 1], strides, [[3, 3, 3]] * 3).encoder(1), torch.zeros(1, 1, *PATCH)
    visible[..., :4, :4, :4] = 1
    skips, masks = sparse_encode(encoder, noise(1, 1, *PATCH) * visible, visible, block=1)
    assert [int(mask.sum()) for mask in masks] == [64, 8, 4 * 8 * 8]
    assert not skips[1][..., 3, 5, 5].any()
    assert skips[2][..., 3, 5, 5].any()


def test_a_sample_does_not_depend_on_its_batch():
    encoder, visible = make(), blocks_visible([3, 9, 20])
    images = noise(3, 1, *PATCH) * visible
    together, _ = sparse_encode(encoder, images, visible, BLOCK)
    for sample in range(3):
        alone, _ = sparse_encode(encoder, images[sample : sample + 1], visible[sample : sample + 1], BLOCK)
        for skip, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(skip[0], expected[sample], rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_between_calls():
    encoder, visible = make(), blocks_visible([3, 9])
    images = noise(2, 1, *PATCH)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    identities = {name: id(parameter) for name, parameter in encoder.named_parameters(remove_duplicate=False)}
    first, _ = sparse_encode(encoder, images, visible, BLOCK)
    sparse_encode(encoder, images, blocks_visible([20, 1], seed=7), BLOCK)
    again, _ = sparse_encode(encoder, images, visible, BLOCK)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert identities == {name: id(parameter) for name, parameter in encoder.named_parameters(remove_duplicate=False)}


def test_images_and_mask_stay_as_they_are():
    visible = blocks_visible([3])
    images = noise(1, 1, *PATCH)
    kept = images.clone(), visible.clone()
    sparse_encode(make(), images, visible, BLOCK)
    assert torch.equal(images, kept[0])
    assert torch.equal(visible, kept[1])


def test_a_sample_of_which_nothing_is_visible_is_0_and_harms_no_other():
    encoder, visible = make(), blocks_visible([0, 9])
    images = noise(2, 1, *PATCH) * visible
    skips, _ = sparse_encode(encoder, images, visible, block=8)  # no stage is dense
    alone, _ = sparse_encode(encoder, images[1:], visible[1:], block=8)
    for skip, expected in zip(skips, alone, strict=True):
        assert not skip[0].any()
        torch.testing.assert_close(skip[1], expected[0], rtol=1e-4, atol=1e-5)
    sum(skip.square().sum() for skip in skips).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_mixed_precision_gives_features_near_those_of_float32():
    encoder, visible = make(), blocks_visible([3, 9])
    images = noise(2, 1, *PATCH) * visible
    exact, _ = sparse_encode(encoder, images, visible, BLOCK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        skips, _ = sparse_encode(encoder, images, visible, BLOCK)
    for skip, expected in zip(skips, exact, strict=True):
        assert skip.dtype == torch.bfloat16
        assert (skip.float() - expected).square().mean() < 1e-3 * expected.square().mean()
    sum(skip.float().square().sum() for skip in skips).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


class Odd(nn.Module):
    pass


def refused(part):
    encoder = make()
    encoder.stages[1] = part
    with pytest.raises(InputError) as error:
        sparse_encode(encoder, noise(1, 1, *PATCH), blocks_visible([3]), BLOCK)
    return str(error.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Odd(), "Odd has no sparse form"),
        (nn.BatchNorm3d(4), "BatchNorm3d has no sparse form"),
        (nn.InstanceNorm3d(4, track_running_stats=True), "running statistics"),
        (nn.Conv3d(4, 4, 2), r"a feature map of (7, 15, 15) has no mask"),
    ],
)
def test_a_part_without_a_sparse_form_is_named(part, message):
    assert message in refused(part)


@pytest.mark.parametrize("extra", [{"squeeze_excitation": True}, {"stochastic_depth_p": 0.1}])
def test_blocks_that_mix_voxels_or_samples_in_other_ways_are_refused(extra):
    encoder = ResidualEncoder(1, n_blocks_per_stage=1, **PARTS, **extra)
    with pytest.raises(InputError, match="stochastic depth and squeeze-excitation have no sparse form"):
        sparse_encode(encoder, noise(1, 1, *PATCH), blocks_visible([3]), BLOCK)


# --- masks ---------------------------------------------------------------------------------------------------------------


def test_a_cell_is_visible_when_a_voxel_in_it_is():
    visible = (noise(2, 1, *PATCH) > 1.5).float()
    masks = level_masks(visible, STRIDES, block=8)
    for mask, (sz, sy, sx) in zip(masks, [(1, 1, 1), (1, 2, 2), (2, 4, 4)], strict=True):
        assert mask.shape == (2, 1, 8 // sz, 16 // sy, 16 // sx)
        for b, z, y, x in mask[:, 0].nonzero().tolist():
            assert visible[b, 0, z * sz : (z + 1) * sz, y * sy : (y + 1) * sy, x * sx : (x + 1) * sx].any()
        covered = mask[:, 0].repeat_interleave(sz, 1).repeat_interleave(sy, 2).repeat_interleave(sx, 3)
        assert (covered >= visible[:, 0]).all()
        assert 0 < mask.mean() < 1


def test_masks_within_the_block_are_exact():
    visible = blocks_visible([3, 9])
    for mask in level_masks(visible, STRIDES, BLOCK):
        assert mask.mean() == visible.mean()


@pytest.mark.parametrize(
    ("strides", "block", "dense"),
    [
        ([[1] * 3] + [[2] * 3] * 5, 16, True),  # ResEnc-L at the published block: stride 32
        ([[1] * 3] + [[2] * 3] * 3, 8, False),
        ([[1, 1, 1], [1, 2, 2], [1, 2, 2]], 2, True),  # one axis is enough
        ([[1, 1, 1], [1, 2, 2], [1, 2, 2]], 4, False),
    ],
)
def test_only_a_last_stage_beyond_the_block_is_dense(strides, block, dense):
    assert last_stage_is_dense(strides, block) == dense
    visible = torch.zeros(1, 1, 32, 32, 32)
    visible[..., 0] = 1
    *masks, last = level_masks(visible, strides, block)
    assert bool((last == 1).all()) == dense
    assert all((mask == 0).any() for mask in masks)


def test_stages_between_that_are_beyond_the_block_hide_what_is_hidden():
    strides = [[1] * 3, [2] * 3, [2] * 3, [2] * 3]
    visible = torch.zeros(1, 1, 8, 8, 16)
    visible[..., :4, :4, :4] = 1
    masks = level_masks(visible, strides, block=2)
    assert [int(mask.sum()) for mask in masks] == [64, 8, 1, 2]  # strides 1, 2, 4 (beyond the block) and 8 (the last)


# --- norm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(5, 5, 5), (1, 9, 20), (24, 0, 32)])
def test_the_norm_is_that_of_the_gathered_voxels(counts):
    visible, weight, bias = blocks_visible(counts), noise(5, seed=1), noise(5, seed=2)
    features = (noise(3, 5, *PATCH) * 4 + 30) * visible
    normed = sparse_instance_norm(features, visible, weight, bias)
    torch.testing.assert_close(normed, gathered_norm(features, visible, weight, bias, 1e-5), rtol=1e-4, atol=1e-4)
    assert not normed[(visible == 0).expand_as(normed)].any()
    without = sparse_instance_norm(features, visible)
    expected = gathered_norm(features, visible, torch.ones(5), torch.zeros(5), 1e-5)
    torch.testing.assert_close(without, expected, rtol=1e-4, atol=1e-4)


def test_the_norm_of_a_whole_volume_is_the_usual_one():
    features, weight, bias = noise(2, 3, 4, 5, 6), noise(3, seed=1), noise(3, seed=2)
    normed = sparse_instance_norm(features, torch.ones(2, 1, 4, 5, 6), weight, bias, eps=0.1)
    torch.testing.assert_close(normed, functional.instance_norm(features, weight=weight, bias=bias, eps=0.1))


@pytest.mark.parametrize("affine", [True, False])
def test_the_derivative_of_the_norm_is_that_of_finite_differences(affine):
    mask = (noise(3, 1, 2, 3, 2) > 0).double()
    mask[2] = 0  # nothing visible
    features = noise(3, 2, 2, 3, 2, seed=1).double().requires_grad_()
    parameters = [noise(2, seed=seed).double().requires_grad_() for seed in (2, 3)] if affine else []
    assert torch.autograd.gradcheck(
        lambda values, *rest: sparse_instance_norm(values * mask, mask, *rest, eps=0.01), (features, *parameters)
    )


def test_statistics_of_bf16_features_are_those_of_float32():
    visible = blocks_visible([9])
    features = ((noise(1, 2, *PATCH) + 60) * visible).bfloat16()  # sums in bf16 would be far off
    normed = sparse_instance_norm(features, visible)
    assert normed.dtype == torch.bfloat16
    torch.testing.assert_close(normed.float(), sparse_instance_norm(features.float(), visible), rtol=0.01, atol=0.01)
