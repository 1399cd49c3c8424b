"""Whom to cite for a pre-trained checkpoint: ``citations`` as nnssl, nnU-Net and nnDetection tools read them.

A citation is ``{"type", "name", "apa_citations": [...]}``; types are "Architecture", "Framework", "Pre-Training Dataset",
"Pretraining Method" and the like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError

PRIMUS: Mapping[str, Any] = {
    "type": "Architecture",
    "name": "Primus",
    "apa_citations": [
        "Wald, T., Roy, S., Isensee, F., Ulrich, C., Ziegler, S., Trofimova, D., Stock, R., Baumgartner, M., Köhler, G., & "
        "Maier-Hein, K. (2025). Primus: Enforcing attention usage for 3D medical image segmentation. arXiv preprint "
        "arXiv:2503.01835."
    ],
}
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "ResidualEncoderUNet": {
        "type": "Architecture",
        "name": "Residual encoder U-Net (ResEnc)",
        "apa_citations": [
            "Isensee, F., Wald, T., Ulrich, C., Baumgartner, M., Roy, S., Maier-Hein, K., & Jaeger, P. F. (2024). nnU-Net "
            "revisited: A call for rigorous validation in 3D medical image segmentation. In Medical Image Computing and "
            "Computer Assisted Intervention - MICCAI 2024 (pp. 488-498). Springer."
        ],
    },
    "PlainConvUNet": {
        "type": "Architecture",
        "name": "Plain-convolution encoder of nnDetection",
        "apa_citations": [
            "Baumgartner, M., Jäger, P. F., Isensee, F., & Maier-Hein, K. H. (2021). nnDetection: A self-configuring method for "
            "medical object detection. In Medical Image Computing and Computer Assisted Intervention - MICCAI 2021 "
            "(pp. 530-539). Springer."
        ],
    },
    **dict.fromkeys(("Primus", "PrimusS", "PrimusB", "PrimusM", "PrimusL"), PRIMUS),
}
FRAMEWORK: Mapping[str, Any] = {
    "type": "Framework",
    "name": "The Missing Piece",
    "apa_citations": [
        "Eckstein, K., Ulrich, C., Baumgartner, M., Kächele, J., Bounias, D., Wald, T., Floca, R., & Maier-Hein, K. H. (2025). "
        "The missing piece: A case for pre-training in 3D medical object detection. In Medical Image Computing and Computer "
        "Assisted Intervention - MICCAI 2025. Springer. https://doi.org/10.1007/978-3-032-04965-0_58"
    ],
}


def complete(citations: Sequence[Mapping[str, Any]], network_class: str) -> list[dict[str, Any]]:
    """The method's citations with those of the network's class and of the study; none twice."""
    architecture = ARCHITECTURES.get(network_class.rpartition(".")[2])
    everything = [*citations, *filter(None, [architecture]), FRAMEWORK]
    found: list[dict[str, Any]] = []
    for citation in everything:
        if dict(citation) not in found:
            found.append(dict(citation))
    return found


def read(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Citations in a checkpoint's content; ``[]`` when it names none.

    They stand at its top level (nnssl), in its adaptation plan (published plans), or, in a ``model.pth``, in the provenance of
    the checkpoint that it was fine-tuned from.

    Raises:
        InputError: they have another form.
    """
    pretrain = (content.get("provenance") or {}).get("pretrain") or {}
    places = (content, content.get("nnssl_adaptation_plan") or {}, pretrain)
    given = next(filter(None, (place.get("citations") for place in places)), [])
    if not isinstance(given, Sequence) or not all(isinstance(entry, Mapping) for entry in given):
        raise InputError(f"{path}: citations: not a list of type, name and apa_citations: correct the checkpoint")
    return [dict(entry) for entry in given]


def lines(citations: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per paper, sorted by type: ``Architecture, NAME: PAPER``."""
    found = []
    for citation in sorted(citations, key=lambda entry: str(entry.get("type"))):
        papers = citation.get("apa_citations") or ["no paper given"]
        papers = [papers] if isinstance(papers, str) else papers
        found += [f"{citation.get('type')}, {citation.get('name')}: {paper}" for paper in papers]
    return found
