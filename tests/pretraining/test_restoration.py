import pytest
import torch

from detpretrain.pretraining.infill import neighbour_mean
from detpretrain.pretraining.masking import block_masks
from detpretrain.pretraining.restoration import restoration_panels, restoration_scores


def case():
    generator = torch.Generator().manual_seed(0)
    images, restored = torch.randn(2, 2, 1, 8, 8, 12, generator=generator).unbind(0)
    return restored, images, block_masks(images, 4, 0.75, [1, 2])


def test_method_and_baseline_are_judged_on_the_same_hidden_voxels():
    restored, images, visible = case()
    ((name, score),) = restoration_scores(restored, images, visible).items()
    assert name == "MSE of masked voxels"
    assert score.baseline_name == "neighbour-mean in-fill"
    assert not score.higher_is_better
    hidden = visible == 0
    for (error, count), guess in (
        (score.method, restored),
        (score.baseline, neighbour_mean(images, visible)),
    ):
        assert count.item() == hidden.sum()
        assert (error / count).item() == pytest.approx(((guess - images)[hidden] ** 2).mean().item(), rel=1e-5)


def test_a_perfect_restoration_scores_0():
    _, images, visible = case()
    assert restoration_scores(images, images, visible)["MSE of masked voxels"].method[0] == 0


def test_scores_of_batches_add_up():
    restored, images, visible = case()
    whole = restoration_scores(restored, images, visible)["MSE of masked voxels"]
    parts = [
        restoration_scores(restored[i : i + 1], images[i : i + 1], visible[i : i + 1])["MSE of masked voxels"]
        for i in range(2)
    ]
    for kind in ("method", "baseline"):
        for position in range(2):
            total = sum(getattr(part, kind)[position] for part in parts)
            torch.testing.assert_close(total, getattr(whole, kind)[position])


def test_panels_show_the_middle_slice_of_every_sample():
    restored, images, visible = case()
    rows = restoration_panels(restored.requires_grad_().bfloat16(), images, visible)
    assert len(rows) == 2
    for sample, row in enumerate(rows):
        assert [panel.title for panel in row] == ["target", "input", "reconstruction", "in-fill"]
        assert {panel.kind for panel in row} == {"grey"}
        assert all(panel.values.shape == (8, 12) and not panel.values.requires_grad for panel in row)
        assert {panel.values.dtype for panel in row} == {torch.float32}
        target, shown, reconstruction, filled = (panel.values for panel in row)
        seen = visible[sample, 0, 4].bool()
        assert torch.equal(target, images[sample, 0, 4])
        assert torch.equal(shown, images[sample, 0, 4] * seen)
        assert torch.equal(reconstruction[seen], target[seen])
        assert torch.equal(reconstruction[~seen], restored[sample, 0, 4].bfloat16().float()[~seen])
        assert torch.equal(filled, neighbour_mean(images, visible)[sample, 0, 4])
