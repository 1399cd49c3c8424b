from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.files import read_yaml
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining.corruptions import Corruption
from detpretrain.pretraining.infill import neighbour_mean
from detpretrain.pretraining.models_genesis import ModelsGenesis

PATCH = (20, 24, 22)
CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make_method(**arguments):
    torch.manual_seed(0)
    backbone = ResEnc([4, 8], [1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    return ModelsGenesis(backbone=backbone, **{"windows": 1000} | arguments)


def images_of(batch, seed=0, shape=PATCH):
    return torch.randn(batch, 1, *shape, generator=torch.Generator().manual_seed(seed))


# --- views ------------------------------------------------------------------------------------------------------------


def test_views_are_float_images_and_a_mask_of_the_batchs_shape():
    corrupted, target, touched = make_method().views(images_of(3), [1, 2, 3])
    assert corrupted.shape == target.shape == touched.shape == (3, 1, *PATCH)
    assert (corrupted.dtype, target.dtype, touched.dtype) == (torch.float32, torch.float32, torch.bool)
    assert not any(view.requires_grad for view in (corrupted, target, touched))


def test_a_samples_views_do_not_depend_on_its_batch():
    method, images, seeds = make_method(), images_of(6), [3, 5, 8, 11, 12, 3]
    together = method.views(images, seeds)
    for number, seed in enumerate(seeds):
        alone = method.views(images[number : number + 1], [seed])
        assert all(torch.equal(view[number], single[0]) for view, single in zip(together, alone, strict=True))
    assert torch.equal(method.views(images, seeds)[0], together[0])
    assert not torch.equal(method.views(images, [4, *seeds[1:]])[0][0], together[0][0])


def test_views_do_not_depend_on_the_memory_layout():
    method, images = make_method(), images_of(2)
    views = method.views(images.to(memory_format=torch.channels_last_3d), [1, 2])
    turned = method.views(images.transpose(2, 4).contiguous().transpose(2, 4), [1, 2])
    for plain, first, second in zip(method.views(images, [1, 2]), views, turned, strict=True):
        assert torch.equal(plain, first)
        assert torch.equal(plain, second)


def test_images_are_left_as_they_are():
    images = images_of(4)
    make_method(flip_probability=0.0).views(images, [1, 2, 3, 4])
    assert torch.equal(images, images_of(4))


def test_the_target_is_the_flipped_image_and_the_input_lives_in_its_range():
    images, seeds = images_of(30) * 4 + 7, list(range(30))
    corrupted, target, _ = make_method().views(images, seeds)
    mirrored = set()
    for number in range(30):
        flips = [
            axes
            for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
            if torch.equal(target[number, 0], images[number, 0].flip(axes))
        ]
        assert len(flips) == 1
        mirrored.update(flips[0])
        assert corrupted[number].min() >= images[number].min() - 1e-4
        assert corrupted[number].max() <= images[number].max() + 1e-4
    assert mirrored == {0, 1, 2}


def test_the_originals_switches_reach_the_views():
    images, seeds = images_of(40) * 3, list(range(40))
    method = make_method(faithful_flip_axes=True, faithful_intensity_range=True, curve_probability=1.0)
    corrupted, target, _ = method.views(images, seeds)
    axes = ((), (0,), (1,), (0, 1))
    for number in range(40):
        assert any(torch.equal(target[number, 0], images[number, 0].flip(some)) for some in axes)
    assert corrupted.min() == 0
    assert corrupted.max() == 1


def test_the_other_arguments_reach_the_views_too():
    images, seeds = images_of(20), list(range(20))
    never = dict.fromkeys(("shuffle_probability", "curve_probability", "paint_probability", "flip_probability"), 0.0)
    corrupted, target, touched = make_method(**never).views(images, seeds)
    assert torch.equal(corrupted, images)
    assert torch.equal(target, images)
    assert not touched.any()
    assert not torch.equal(make_method(**never | {"flip_probability": 1.0}).views(images, seeds)[1], images)
    bent, _, touched = make_method(**never | {"curve_probability": 1.0}).views(images, seeds)
    assert (bent != images).float().mean() > 0.9
    assert not touched.any()
    shares = [
        make_method(**never | {"shuffle_probability": 1.0, "windows": windows}).views(images, seeds)[2].float().mean()
        for windows in (100, 1000)
    ]
    assert 0 < shares[0] < 0.1 < shares[1]
    outside = make_method(**never | {"paint_probability": 1.0, "inpaint_probability": 0.0}).views(images, seeds)[2]
    assert outside[:, :, :3].all()
    within = make_method(**never | {"paint_probability": 1.0, "inpaint_probability": 1.0}).views(images, seeds)[2]
    assert within.any()
    assert not within[:, :, :3].any()
    nothing = {"paint_probability": 1.0, "inpaint_probability": 1.0, "block_probability": 0.0}
    assert not make_method(**never | nothing).views(images, seeds)[2].any()


def test_the_defaults_are_the_originals():
    method = ModelsGenesis(backbone=ResEnc([2], [1], [[1, 1, 1]], [[3, 3, 3]]))
    assert method.corruption == Corruption()


def test_a_patch_that_is_too_small_is_an_input_error():
    with pytest.raises(InputError, match=r"patch \(12, 24, 24\) is too small"):
        make_method().views(images_of(1, shape=(12, 24, 24)), [0])


# --- loss -------------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Remembers what it sees, and answers with half of it."""

    def forward(self, images):
        self.seen = images
        return (images / 2).bfloat16()


def test_the_loss_is_the_mean_squared_error_over_all_voxels_of_what_the_corrupted_image_gives():
    method = make_method()
    method.network = Recorder()
    corrupted, target, touched = method.views(images_of(3), [1, 2, 3])
    losses = method(corrupted, target, touched)
    assert torch.equal(method.network.seen, corrupted)
    answer = (corrupted / 2).bfloat16().double().numpy()
    expected = np.mean((answer - target.double().numpy()) ** 2)
    assert list(losses) == ["mse"]
    assert losses["mse"].dtype == torch.float32
    assert losses["mse"].item() == pytest.approx(expected, rel=1e-5)


def test_two_steps_change_every_tensor_of_the_encoder():
    method = make_method()
    before = {name: value.clone() for name, value in method.network.encoder.named_parameters()}
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        method(*method.views(images_of(2, seed=step), [step, step + 10]))["mse"].backward()
        optimizer.step()
    for name, value in method.network.encoder.named_parameters():
        if not name.endswith("conv.bias"):  # the norm that follows takes it away
            assert value.isfinite().all()
            assert not torch.equal(value, before[name]), name


def test_some_steps_on_one_image_lower_the_loss():
    method, image = make_method(), torch.linspace(-1, 1, 22).expand(1, 1, *PATCH).contiguous()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = method(*method.views(image, [step]))["mse"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-15:]) < 0.7 * sum(losses[:15])


# --- figures and pictures ---------------------------------------------------------------------------------------------


def squared_errors(restored, target, touched):
    return [(restored[place] - target[place]).item() ** 2 for place in map(tuple, touched.nonzero().tolist())]


def test_scores_are_errors_of_touched_voxels_beside_those_of_in_fills():
    method = make_method()
    method.network = Recorder()
    views = corrupted, target, touched = method.views(images_of(2), [4, 7])
    assert 0.3 < touched.float().mean() < 0.95
    scores = method.assess(*views)
    name = "MSE of shuffled and painted voxels"
    assert list(scores) == [name, f"{name}, in-fill of the clean image"]
    sees, clean = scores.values()
    expected = squared_errors((corrupted / 2).bfloat16().float(), target, touched)
    for score, source in ((sees, corrupted), (clean, target)):
        assert not score.higher_is_better
        assert score.method[0].item() == pytest.approx(sum(expected), rel=1e-4)
        assert score.method[1] == score.baseline[1] == len(expected)
        infill = neighbour_mean(torch.where(touched, 1e6, source), ~touched)  # nothing of what was touched gets in
        assert score.baseline[0].item() == pytest.approx(sum(squared_errors(infill, target, touched)), rel=1e-4)
    assert sees.baseline_name == "neighbour-mean in-fill"
    assert clean.baseline_name == "neighbour-mean in-fill of the clean image"
    assert clean.baseline[0] < sees.baseline[0]


def test_with_nothing_left_the_in_fill_is_the_mean_of_z_scores():
    method = make_method()
    corrupted, target, _ = method.views(images_of(1), [4])
    with torch.no_grad():
        scores = method.assess(corrupted, target, torch.ones_like(target, dtype=torch.bool))
    for score in scores.values():
        assert score.baseline[0].item() == pytest.approx((target**2).sum().item(), rel=1e-5)


def test_with_nothing_touched_there_is_nothing_to_count():
    method = make_method(shuffle_probability=0.0, paint_probability=0.0)
    with torch.no_grad():
        scores = method.assess(*method.views(images_of(1), [4]))
    assert all(part.item() == 0 for score in scores.values() for part in (*score.method, *score.baseline))


def test_the_preview_shows_the_middle_slice_of_each_sample():
    method = make_method()
    method.network = Recorder()
    corrupted, target, touched = method.views(images_of(3), [1, 2, 3])
    rows = method.preview(corrupted, target, touched)
    assert len(rows) == 3
    for number, row in enumerate(rows):
        assert [(panel.title, panel.kind) for panel in row] == [
            ("target", "grey"),
            ("input", "grey"),
            ("reconstruction", "grey"),
            ("touched", "labels"),
        ]
        pictures = [panel.values for panel in row]
        assert torch.equal(pictures[0], target[number, 0, 10])
        assert torch.equal(pictures[1], corrupted[number, 0, 10])
        assert torch.equal(pictures[2], (corrupted[number, 0, 10] / 2).bfloat16().float())
        assert torch.equal(pictures[3], touched[number, 0, 10].long())
    assert not any(
        panel.values.requires_grad for row in make_method().preview(corrupted, target, touched) for panel in row
    )


# --- entry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["full", "real_mr", "demo", "smoke"])
def test_windows_cover_patches_of_every_size_as_often_as_the_original(size):
    entry = read_yaml(CONFIG / "methods.yaml")["models_genesis"]["sizes"][size]
    side = read_yaml(CONFIG / "plans" / f"{entry['plan']}.yaml")["patch"]

    def coverage(windows, side):
        return windows * np.mean(range(1, side // 10 + 1)) ** 3 / side**3

    assert coverage(entry["windows"], side) == pytest.approx(coverage(10000, 160), rel=1e-3)


def test_the_method_is_cited():
    (citation,) = ModelsGenesis.citations
    assert citation.as_data()["type"] == "Pretraining Method"
    assert "Models Genesis. Medical Image Analysis" in citation.as_data()["apa_citations"][0]
