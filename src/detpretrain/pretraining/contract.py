"""What a pre-training method is to the training loop, to the checkpoint and to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from detpretrain.errors import InputError

Views = tuple[Any, ...]
CONVOLUTIONAL = "convolutional"  # family of the backbones and methods that name none


@dataclass(frozen=True)
class Citation:
    """One entry of a checkpoint's ``citations``; ``type`` is e.g. "Pretraining Method" or "Architecture"."""

    type: str
    name: str
    apa_citations: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        return {"type": self.type, "name": self.name, "apa_citations": list(self.apa_citations)}


@dataclass(frozen=True)
class Score:
    """A figure of a method on one batch beside that of a trivial baseline on the same views.

    Attributes:
        method, baseline: ``(numerator, denominator)`` scalars; both are summed over the batches before they are divided, so
            that the figure does not depend on how samples fall into batches.
        baseline_name: what the baseline is, e.g. "neighbour-mean in-fill".
        higher_is_better: Dice yes, errors no.
    """

    method: tuple[Tensor, Tensor]
    baseline: tuple[Tensor, Tensor]
    baseline_name: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture of a method's preview: ``values [H, W]``; ``kind``: "grey", "labels" (0 = background) or "matrix" (0..1).

    ``axes``: what the rows and columns of a matrix are.
    """

    title: str
    values: Tensor
    kind: str = "grey"
    axes: tuple[str, str] = ("row", "column")


class Method(Protocol):
    """An ``nn.Module`` built by keyword from a backbone (``backbone=``) and its entry's arguments.

    Attributes:
        supervised: False for methods that look at images alone; see ``SupervisedMethod``.
        family: of the backbones that it suits, "transformer"; without it, convolutional ones.
        network: what becomes ``network_weights``: holds the encoder under the backbone's keys (``encoder.stages`` ...).
        citations: of the method.
    """

    supervised: ClassVar[bool]
    network: nn.Module
    citations: Sequence[Citation]

    def views(self, images: Tensor, sample_seeds: Sequence[int]) -> Views:
        """What the network gets to see and has to tell: tensors on the images' device, in float32, without gradients.

        ``images [B, 1, D, H, W]``. Everything random comes from ``sample_seeds`` (one per sample), so that a sample's views do
        not depend on the batch, and validation sees the same views every epoch. Augmentation of views is for ``self.training``.
        """
        ...

    def __call__(self, *views: Any) -> dict[str, Tensor]:
        """Losses by name, scalars that are summed; what is drawn for samples here (dropout) is drawn by ``models.draws``."""
        ...

    def assess(self, *views: Any) -> dict[str, Score]:
        """How well the pretext task is solved, beside a trivial baseline; called after training, without gradients."""
        ...

    def preview(self, *views: Any) -> list[list[Panel]]:
        """Pictures of what was learned: one row of panels per sample."""
        ...


def suits(method: type, backbone: Any) -> bool:
    """Whether a method can train a backbone: both are convolutional, or both name the same other ``family``."""
    return getattr(method, "family", CONVOLUTIONAL) == getattr(backbone, "family", CONVOLUTIONAL)


def check_suits(method: type, backbone: Any) -> None:
    """Raises:
    InputError: the method cannot train this backbone.
    """
    if not suits(method, backbone):
        raise InputError(
            f"pre-training: {method.__name__} is for {getattr(method, 'family', CONVOLUTIONAL)} backbones, "
            f"{type(backbone).__name__} is a {getattr(backbone, 'family', CONVOLUTIONAL)} one: give the detector's row an init "
            "whose method suits its backbone"
        )


@dataclass(frozen=True)
class Source:
    """One labelled data set of a supervised method.

    Attributes:
        name: id of the data set.
        modalities: one per channel.
        class_names: of what the data set annotates.
        members: the values of the label map that make up each class; classes may overlap (nnU-Net's regions).
        ignored: values of voxels that nobody annotated.
        cases: number of training cases.
    """

    name: str
    modalities: Sequence[str]
    class_names: Sequence[str]
    members: Sequence[Sequence[int]]
    ignored: Sequence[int]
    cases: int


class SupervisedMethod(Protocol):
    """As ``Method``, built with ``sources=`` (a list of ``Source``) as well, with ``supervised = True`` and other views.

    Attributes:
        source_exponent: a data set is drawn in proportion to its number of training cases to this power.
        default_stem: name of the stem that ``network`` holds.
    """

    source_exponent: ClassVar[float]
    default_stem: str

    def extra_stems(self) -> dict[str, nn.Module]:
        """Stems for other inputs than the network's own, by name."""
        ...

    def views(self, images: Sequence[Tensor], labels: Tensor, sources: Sequence[int]) -> Views:
        """``images``: per sample ``[C, D, H, W]`` (channels differ between data sets); ``labels [B, D, H, W]``: semantic maps,
        0 = background; ``sources``: per sample the index of its data set."""
        ...
