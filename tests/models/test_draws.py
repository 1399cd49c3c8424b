"""Draws by global sample: torch's and timm's own when alone, and of each of two ranks what one process draws for its samples."""

import pytest
import torch
from torch import nn

from detpretrain.models import draws, ranks
from detpretrain.models.eva_import import eva_class
from detpretrain.models.self_attention import SelfAttention


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(function, *arguments, seed=3):
    torch.manual_seed(seed)
    return function(*arguments)


@pytest.fixture
def as_rank(monkeypatch):
    """``as_rank(r, n)``: this process counts as rank r of n."""

    def become(own, number):
        monkeypatch.setattr(ranks, "own", lambda: own)
        monkeypatch.setattr(ranks, "number", lambda: number)

    return become


@pytest.mark.parametrize(("shape", "dim"), [((6, 3), 0), ((2, 6, 3), 1), ((6,), 0)])
@pytest.mark.parametrize("number", [2, 3])
def test_ranks_together_draw_what_one_does(as_rank, shape, dim, number):
    whole = drawn(draws.per_sample, torch.rand, shape, dim)
    assert torch.equal(whole, drawn(torch.rand, shape))
    part = [size // number if axis == dim else size for axis, size in enumerate(shape)]
    after = torch.rand(1)
    for own in range(number):
        as_rank(own, number)
        found = drawn(draws.per_sample, torch.rand, part, dim)
        assert torch.equal(found, whole.movedim(dim, 0)[own::number].movedim(0, dim))
        assert torch.equal(torch.rand(1), after)  # the generators go on alike


MODULES = {"dropout": draws.Dropout, "drop path": draws.DropPath}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_a_rank_leaves_out_what_one_process_leaves_out_of_its_samples(as_rank, name, probability):
    module, x = MODULES[name](probability), noise(6, 4, 5)
    whole = drawn(module, x)
    for own in range(2):
        as_rank(own, 2)
        assert torch.equal(drawn(module, x[own::2]), whole[own::2])


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_they_draw_as_those_of_torch_and_timm(probability, dtype):
    eva_class()  # makes timm importable
    from timm.layers import DropPath

    x = noise(8, 5, 4).to(dtype)
    for ours, theirs in ((draws.Dropout, nn.Dropout), (draws.DropPath, DropPath)):
        assert torch.equal(drawn(ours(probability), x), drawn(theirs(probability), x))
        assert ours(probability).eval()(x) is x


def attentions(dropout):
    theirs = nn.MultiheadAttention(8, 2, dropout, batch_first=True)
    ours = SelfAttention(8, 2, dropout)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


HIDDEN = (noise(3, 5, 5, seed=1) > 0) & ~torch.eye(5, dtype=torch.bool)


@pytest.mark.parametrize("hidden", [None, HIDDEN], ids=["all seen", "some hidden"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_self_attention_is_torch_s(dropout, hidden):
    """Written out where weights are dropped; torch does that outside of its kernel when it returns them."""
    ours, theirs = attentions(dropout)
    placed, contents = noise(3, 5, 8), noise(3, 5, 8, seed=2)
    mask = None if hidden is None else hidden.repeat_interleave(2, dim=0)
    found = drawn(ours, placed, contents, hidden)
    expected = drawn(theirs, placed, placed, contents, None, True, mask)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found, drawn(ours.eval(), placed, contents, hidden)) == (dropout == 0)


def test_self_attention_of_a_rank_drops_what_one_process_drops(as_rank):
    ours, _ = attentions(0.4)
    placed, contents = noise(4, 5, 8), noise(4, 5, 8, seed=2)
    whole = drawn(ours, placed, contents)
    for own in range(2):
        as_rank(own, 2)
        torch.testing.assert_close(drawn(ours, placed[own::2], contents[own::2]), whole[own::2])
