import math

import pytest
import torch
from small_transformer import CHANNELS, DINO, SIZES, VOXELS, make_transformer, maps_of

from detpretrain.errors import InputError
from detpretrain.models.deformable_transformer import DecoderLayer, EncoderLayer, Heads, base_boxes, inverse_sigmoid


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_inverse_sigmoid_is_one_and_stays_finite_at_the_ends():
    values = torch.tensor([0.001, 0.3, 0.5, 0.99])
    torch.testing.assert_close(inverse_sigmoid(values).sigmoid(), values)
    assert inverse_sigmoid(torch.tensor([0.0, 1.0, 1.6, -1.0])).tolist() == pytest.approx(
        [-11.5129, 11.5129, 11.5129, -11.5129], abs=0.01
    )


def test_base_boxes_double_with_the_level():
    boxes = base_boxes(SIZES, 0.05, torch.device("cpu"))
    assert boxes.shape == (VOXELS, 6)
    torch.testing.assert_close(boxes[0], torch.tensor([0.125, 1 / 12, 1 / 6, 0.05, 0.05, 0.05]))
    torch.testing.assert_close(boxes[-1], torch.tensor([0.75, 5 / 6, 0.75, 0.1, 0.1, 0.1]))


def test_the_first_boxes_are_the_base_boxes_of_the_likeliest_voxels_and_probabilities_the_prior():
    transformer = make_transformer(trained=False, prior=0.03)
    with torch.no_grad():
        found = transformer(maps_of(2))
    bases = base_boxes(SIZES, 0.05, torch.device("cpu"))
    torch.testing.assert_close(found.proposal_boxes, bases.expand(2, -1, -1))
    for image in range(2):
        best = found.proposal_logits[image, :, 0].sort(descending=True, stable=True).indices[:7]
        for layer in found.boxes[:, image]:
            torch.testing.assert_close(layer, bases[best])
    centred = found.logits - found.logits.mean()
    assert centred.abs().max() > 0
    torch.testing.assert_close(Heads(4, 3, 0.03).classifier.bias.sigmoid(), torch.full((3,), 0.03))
    assert abs(found.logits.mean().item() - math.log(0.03 / 0.97)) < 1


def test_shapes_of_all_layers_and_fewer_voxels_than_queries():
    found = make_transformer()(maps_of(2))
    assert found.logits.shape == (3, 2, 7, 2)
    assert found.boxes.shape == (3, 2, 7, 6)
    assert found.proposal_logits.shape == (2, VOXELS, 1)
    assert found.proposal_boxes.shape == (2, VOXELS, 6)
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()
    assert make_transformer(queries=300)(maps_of(1)).boxes.shape == (3, 1, VOXELS, 6)


def test_each_decoder_layer_refines_the_boxes_of_the_one_before():
    """The last layer's regressor stopped: its boxes are those of the layer before it."""
    transformer = make_transformer()
    with torch.no_grad():
        transformer.heads[2].regressor[-1].weight.zero_()
        transformer.heads[2].regressor[-1].bias.zero_()
        boxes = transformer(maps_of(2)).boxes
    torch.testing.assert_close(boxes[2], boxes[1])
    assert (boxes[1] - boxes[0]).abs().max() > 1e-3


def test_a_layer_s_boxes_do_not_train_the_regressors_before_it():
    transformer = make_transformer()
    transformer(maps_of(1)).boxes[2].sum().backward()
    assert transformer.heads[2].regressor[-1].weight.grad.any()
    for other in (transformer.heads[0], transformer.heads[1], transformer.proposal_heads):
        assert not any(parameter.grad is not None and parameter.grad.any() for parameter in other.parameters())


def layers_with_only(branch):
    """Layers whose other branches add nothing, with the tokens, positions, references and memory to try them on."""
    torch.manual_seed(0)
    layer = (CHANNELS, 3, 2, 2, 20, 0.0)
    encoder, decoder = EncoderLayer(*layer), DecoderLayer(*layer)
    last = {
        "encoder": encoder.attention.out,
        "encoder feed-forward": encoder.feed_forward.narrow,
        "self": decoder.self_attention.out_proj,
        "cross": decoder.cross_attention.out,
        "decoder feed-forward": decoder.feed_forward.narrow,
    }
    for name, linear in last.items():
        if name != branch:
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    for attention in (encoder.attention, decoder.cross_attention):
        torch.nn.init.normal_(attention.offsets.weight)
        torch.nn.init.normal_(attention.weights.weight)
    tokens, positions, memory = 5 * torch.randn(3, 2, VOXELS, CHANNELS)
    return encoder, decoder, tokens, positions, torch.rand(2, VOXELS, 2, 3), memory


def norm_of(tokens):
    return torch.nn.functional.layer_norm(tokens, (CHANNELS,))


def test_pre_norm_layers_without_their_branches_change_nothing():
    encoder, decoder, tokens, positions, references, memory = layers_with_only(None)
    assert torch.equal(encoder(tokens, positions, references, SIZES), tokens)
    assert torch.equal(decoder(tokens, positions, references, memory, SIZES), tokens)


def test_voxels_look_around_with_their_positions_and_at_values_without():
    encoder, _, tokens, positions, references, _ = layers_with_only("encoder")
    added = encoder.attention(norm_of(tokens) + positions, references, norm_of(tokens), SIZES)
    torch.testing.assert_close(encoder(tokens, positions, references, SIZES), tokens + added)


def test_queries_look_at_the_memory_with_their_positions():
    _, decoder, tokens, positions, references, memory = layers_with_only("cross")
    added = decoder.cross_attention(norm_of(tokens) + positions, references, memory, SIZES)
    torch.testing.assert_close(decoder(tokens, positions, references, memory, SIZES), tokens + added)


def test_queries_look_at_each_other_head_by_head():
    _, decoder, tokens, positions, references, memory = layers_with_only("self")
    attention, width = decoder.self_attention, CHANNELS // 3
    placed = norm_of(tokens) + positions
    (to_query, to_key, to_value), biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    query, key = placed @ to_query.T + biases[0], placed @ to_key.T + biases[1]
    value = norm_of(tokens) @ to_value.T + biases[2]
    heads = []
    for head in range(3):
        part = slice(head * width, (head + 1) * width)
        shares = (query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width)).softmax(-1)
        heads.append(shares @ value[..., part])
    added = attention.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(decoder(tokens, positions, references, memory, SIZES), tokens + added)


def test_positions_and_queries_are_seen():
    """Equal maps of one value everywhere: only the codes can tell the voxels apart."""
    transformer = make_transformer()
    flat = [torch.ones(1, CHANNELS, *size) for size in SIZES]
    with torch.no_grad():
        logits = transformer(flat).proposal_logits[0, :, 0]
    assert len(logits.unique()) > VOXELS // 2


def test_without_its_level_s_code_a_voxel_looks_different():
    transformer, maps = make_transformer(), maps_of(1)
    with torch.no_grad():
        before = transformer(maps).proposal_logits
        transformer.level_code.zero_()
        assert not torch.allclose(transformer(maps).proposal_logits, before)


@pytest.mark.parametrize("arguments", [{}, DINO], ids=["deformable", "dino"])
def test_a_batch_is_its_images_one_by_one(arguments):
    transformer, maps = make_transformer(**arguments), maps_of(3)
    with torch.no_grad():
        together = transformer(maps)
        for image in range(3):
            alone = transformer([level[image : image + 1] for level in maps])
            torch.testing.assert_close(alone.boxes[:, 0], together.boxes[:, image], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.logits[:, 0], together.logits[:, image], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arguments", [{}, DINO], ids=["deformable", "dino"])
def test_every_parameter_and_map_gets_a_gradient(arguments):
    transformer, maps = make_transformer(**arguments), [level.requires_grad_() for level in maps_of(2)]
    found = transformer(maps)
    sum((part**2).sum() for part in vars(found).values()).backward()
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert all(level.grad.any() for level in maps)


def test_autocast_leaves_the_heads_in_full_precision():
    transformer, maps = make_transformer(), maps_of(1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = transformer(maps)
    assert {part.dtype for part in vars(found).values()} == {torch.float32}
    # a box head in bf16 gives sums of numbers with 8 bits, which float32 holds exactly
    sizes = found.proposal_boxes[..., 3:]
    assert not torch.equal(sizes.bfloat16().float(), sizes)


def test_dropout_is_for_training():
    transformer, maps = make_transformer(dropout=0.5), maps_of(1)
    with torch.no_grad():
        assert not torch.equal(transformer(maps).logits, transformer(maps).logits)
        transformer.eval()
        assert torch.equal(transformer(maps).logits, transformer(maps).logits)


def test_the_published_size():
    """Four levels of 128 channels: 3 encoder and 6 decoder layers, counted by hand."""
    with torch.device("meta"):
        big = make_transformer(
            trained=False,
            classes=1,
            levels=4,
            channels=128,
            heads=8,
            points=4,
            encoder_layers=3,
            decoder_layers=6,
            feed_forward=1024,
        )
    c, places = 128, 8 * 4 * 4
    deformable = (c * c + c) * 2 + (c + 1) * places * 4
    feed_forward = c * 1024 + 1024 + 1024 * c + c + 2 * c
    encoder = deformable + feed_forward + 2 * c
    decoder = deformable + feed_forward + 2 * 2 * c + 4 * (c * c + c)
    heads = (c + 1) + 2 * (c * c + c) + (c + 1) * 6
    rest = 4 * c + (c * c + c + 2 * c) + (3 * c * 2 * c + 2 * c + 4 * c) + 2 * 2 * c
    assert sum(p.numel() for p in big.parameters()) == 3 * encoder + 6 * (decoder + heads) + heads + rest


def test_too_few_channels():
    with pytest.raises(InputError, match="4 channels are too few"):
        make_transformer(channels=4, heads=2)
