"""Where the decoder's queries start and what they are given: extra ones, refined positions, contents by rank."""

import math

import pytest
import torch
from small_transformer import CHANNELS, DINO, SIZES, VOXELS, make_transformer, maps_of

from detpretrain.models.deformable_transformer import ExtraQueries, hidden_queries


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


GROUPS = torch.tensor([0, 0, 0, 1, 1])


def extra_queries(seed=0, batch=2):
    """Five in two groups that do not see each other."""
    generator = torch.Generator().manual_seed(seed)
    boxes = 0.1 + 0.8 * torch.rand(batch, 5, 6, generator=generator)
    content = torch.randn(batch, 5, CHANNELS, generator=generator)
    return ExtraQueries(boxes, content, (GROUPS[:, None] != GROUPS).expand(batch, -1, -1))


def test_own_queries_see_no_extra_ones_and_those_see_what_they_may():
    extra = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden = hidden_queries(4, extra)
    assert hidden.shape == (3, 9, 9)
    for image in range(3):
        for asks in range(9):
            for asked in range(9):
                expected = asked >= 4 and (asks < 4 or bool(extra[image, asks - 4, asked - 4]))
                assert hidden[image, asks, asked] == expected


@pytest.mark.parametrize("arguments", [{}, DINO])
def test_extra_queries_change_nothing_for_the_others(arguments):
    transformer, maps = make_transformer(**arguments), maps_of(2)
    plain, found = transformer(maps), transformer(maps, extra_queries())
    assert transformer.training
    for name in ("logits", "boxes", "proposal_logits", "proposal_boxes"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=1e-4, atol=1e-6)
    assert plain.extra_logits.shape == (3, 2, 0, 2)
    assert plain.extra_boxes.shape == (3, 2, 0, 6)
    assert found.extra_logits.shape == (3, 2, 5, 2)
    assert found.extra_boxes.shape == (3, 2, 5, 6)


def test_no_gradient_of_the_other_queries_reaches_extra_ones():
    transformer, extra = make_transformer(), extra_queries()
    extra.content.requires_grad_()
    found = transformer(maps_of(2), extra)
    (found.logits.sum() + found.boxes.sum()).backward(retain_graph=True)
    assert not extra.content.grad.any()
    found.extra_logits[:, :, 0].sum().backward()
    assert extra.content.grad[:, :3].any(dim=2).all()
    assert not extra.content.grad[:, 3:].any()


def test_a_group_of_extra_queries_does_not_depend_on_another():
    transformer, maps, extra, other = make_transformer(), maps_of(2), extra_queries(), extra_queries(seed=1)
    second = (GROUPS == 1)[:, None]
    mixed = ExtraQueries(
        torch.where(second, other.boxes, extra.boxes), torch.where(second, other.content, extra.content), extra.hidden
    )
    with torch.no_grad():
        before, after = transformer(maps, extra), transformer(maps, mixed)
    for name in ("extra_logits", "extra_boxes"):
        first, changed = getattr(before, name), getattr(after, name)
        torch.testing.assert_close(changed[:, :, :3], first[:, :, :3], rtol=1e-4, atol=1e-6)
        assert not torch.isclose(changed[:, :, 3:], first[:, :, 3:]).all(-1).any()


def test_an_extra_query_without_content_is_one_of_the_others_in_its_place():
    """At the place of the only other query, which it sees beside itself, it says what that one says."""
    transformer, maps = make_transformer(queries=1), maps_of(2)
    best = transformer(maps).proposal_logits[..., 0].argmax(1)
    place = transformer(maps).proposal_boxes[torch.arange(2), best][:, None].detach()
    alone = torch.zeros(2, 1, 1, dtype=torch.bool)
    with torch.no_grad():
        found = transformer(maps, ExtraQueries(place, torch.zeros(2, 1, CHANNELS), alone))
        other = transformer(maps, ExtraQueries(place, torch.randn(2, 1, CHANNELS), alone))
    torch.testing.assert_close(found.extra_logits, found.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.extra_boxes, found.boxes, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(other.extra_logits, found.logits)


def seen_by_layers(transformer, maps, extra=None):
    """What each decoder layer is given as contents and positions, ``[layers, B, Q, C]`` each, and what comes out of all."""
    given = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: given.append((inputs[0], inputs[1])))
        for layer in transformer.decoder
    ]
    with torch.no_grad():
        found = transformer(maps, extra)
    for hook in hooks:
        hook.remove()
    contents, positions = zip(*given, strict=True)
    return torch.stack(contents), torch.stack(positions), found


def own_positions(transformer, boxes):
    """The first half of the query features: a linear layer and a norm over the six sine codes, written out."""
    each = CHANNELS // 4 * 2
    angles = [2 * math.pi * boxes[..., None] / transformer.temperature ** (2 * i / each) for i in range(each // 2)]
    code = torch.cat([torch.cat([a.sin(), a.cos()], dim=-1) for a in angles], dim=-1)
    return transformer.query_features(code.flatten(-2))[..., :CHANNELS].detach()


@pytest.mark.parametrize("refined", [False, True])
def test_positions_are_those_of_the_proposals_or_of_the_boxes_that_a_layer_refines(refined):
    transformer = make_transformer(refined_positions=refined)
    _, positions, found = seen_by_layers(transformer, maps_of(2))
    torch.testing.assert_close(positions[0], own_positions(transformer, initial_boxes(found)), rtol=1e-4, atol=1e-5)
    for layer in (1, 2):
        expected = own_positions(transformer, found.boxes[layer - 1]) if refined else positions[0]
        torch.testing.assert_close(positions[layer], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(own_positions(transformer, found.boxes[0]), positions[0], rtol=1e-3)


def initial_boxes(found):
    """The proposals of the seven likeliest voxels, likeliest first."""
    order = found.proposal_logits[..., 0].sort(dim=1, descending=True).indices[:, :7]
    return torch.stack([boxes[best] for boxes, best in zip(found.proposal_boxes, order, strict=True)])


def test_a_ranked_query_starts_from_the_vector_of_its_rank_and_an_extra_one_from_its_content():
    transformer, extra = make_transformer(**DINO), extra_queries()
    contents, _, _ = seen_by_layers(transformer, maps_of(2), extra)
    for image in range(2):
        torch.testing.assert_close(contents[0, image, :7], transformer.ranked_content.detach())
        torch.testing.assert_close(contents[0, image, 7:], extra.content[image])


@pytest.mark.parametrize("ranked", [False, True])
def test_equal_proposals_can_be_told_apart_by_their_rank_alone(ranked):
    transformer = make_transformer(ranked_content=ranked)
    place = torch.tensor([0.4, 0.5, 0.6, 0.2, 0.3, 0.2]).expand(1, 2, -1)
    sizes, memory = SIZES, torch.randn(1, VOXELS, CHANNELS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits, boxes = transformer._decode(place, None, memory, sizes)
    different = not torch.allclose(logits[:, :, 0], logits[:, :, 1], rtol=1e-3)
    assert different == ranked
    assert torch.allclose(boxes[:, :, 0], boxes[:, :, 1], rtol=1e-3) != ranked


def test_fewer_voxels_than_ranks_use_the_first_ones():
    transformer = make_transformer(**DINO, queries=VOXELS + 5)
    contents, _, found = seen_by_layers(transformer, maps_of(1))
    assert found.logits.shape[2] == VOXELS
    torch.testing.assert_close(contents[0, 0], transformer.ranked_content.detach()[:VOXELS])
