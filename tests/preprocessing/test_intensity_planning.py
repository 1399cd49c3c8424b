import pytest

from detpretrain.errors import InputError
from detpretrain.preprocessing.intensity_planning import channel_scheme, derived_schemes, use_nonzero_mask

STATISTICS = {"percentile_00_5": -10.0, "percentile_99_5": 90.0, "mean": 30.0, "sd": 12.0}


def test_schemes_by_modality():
    assert derived_schemes(["CT", "CT2", "raw", "MR", "CTA"], [STATISTICS] * 5) == [
        "ct",
        "ct2",
        "raw",
        "zscore",
        "zscore",
    ]


def test_without_foreground_every_image_counts_by_itself():
    assert derived_schemes(["CT", "MR", "raw"], None) == ["zscore", "zscore", "raw"]


def test_a_scheme_holds_the_numbers_it_needs():
    assert channel_scheme("ct", STATISTICS, "plan") == {"scheme": "ct", "clip": [-10.0, 90.0], "mean": 30.0, "sd": 12.0}
    assert channel_scheme("ct2", STATISTICS, "plan") == {"scheme": "ct2", "clip": [-10.0, 90.0]}
    assert channel_scheme("zscore", STATISTICS, "plan") == {"scheme": "zscore"}


def test_ct_without_foreground_is_refused():
    with pytest.raises(InputError, match="plan p: intensity ct needs labelled voxels"):
        channel_scheme("ct", None, "plan p")
    given = {"scheme": "ct", "clip": [0, 1], "mean": 0.5, "sd": 2}
    assert channel_scheme(given, None, "plan p") == given


@pytest.mark.parametrize(
    ("modalities", "reductions", "masked"),
    [(["MR"], [0.3, 0.7, 0.9], True), (["MR"], [0.3, 0.75, 0.9], False), (["MR", "CTA"], [0.1], False)],
)
def test_nonzero_mask_below_three_quarters(modalities, reductions, masked):
    assert use_nonzero_mask(modalities, reductions)[0] is masked
