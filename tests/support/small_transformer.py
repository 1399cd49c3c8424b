"""A deformable transformer over two small maps."""

import torch

from detpretrain.models.deformable_transformer import DeformableTransformer

SIZES = [(4, 6, 3), (2, 3, 2)]
VOXELS = 84
CHANNELS = 12
DINO = {"refined_positions": True, "ranked_content": True}


def make_transformer(trained=True, **arguments):
    torch.manual_seed(0)
    small = {
        "classes": 2,
        "levels": 2,
        "channels": CHANNELS,
        "heads": 3,
        "points": 2,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "feed_forward": 20,
        "dropout": 0.0,
        "queries": 7,
        "object_scale": 0.05,
        "prior": 0.05,
    }
    transformer = DeformableTransformer(**small | arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transformer.parameters() if trained else ():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return transformer


def maps_of(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, CHANNELS, *size, generator=generator) for size in SIZES]
