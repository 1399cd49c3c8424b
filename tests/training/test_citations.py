import pytest

from detpretrain.errors import InputError
from detpretrain.training.citations import FRAMEWORK, complete, lines, read

METHOD = {"type": "Pretraining Method", "name": "MAE", "apa_citations": ["He (2022).", "Wald (2025)."]}


def test_one_line_per_paper_sorted_by_type():
    data = {"type": "Pre-Training Dataset", "name": "CT-RATE", "apa_citations": ["Hamamci (2024)."]}
    assert lines([METHOD, data, {"type": "Architecture", "name": "ResEnc", "apa_citations": "Isensee (2024)."}]) == [
        "Architecture, ResEnc: Isensee (2024).",
        "Pre-Training Dataset, CT-RATE: Hamamci (2024).",
        "Pretraining Method, MAE: He (2022).",
        "Pretraining Method, MAE: Wald (2025).",
    ]
    assert lines([]) == []
    assert lines([{"name": "x"}]) == ["None, x: no paper given"]


def test_architecture_and_framework_are_added_once():
    once = complete([METHOD], "ResidualEncoderUNet")
    assert [entry["type"] for entry in once] == ["Pretraining Method", "Architecture", "Framework"]
    assert complete(once, "ResidualEncoderUNet") == once
    assert complete([METHOD], "SomeOtherNet") == [METHOD, FRAMEWORK]
    assert all(entry["apa_citations"] for entry in once)


def test_they_are_read_from_the_checkpoint_or_its_plan(tmp_path):
    assert read(tmp_path, {"citations": [METHOD], "nnssl_adaptation_plan": {"citations": []}}) == [METHOD]
    assert read(tmp_path, {"nnssl_adaptation_plan": {"citations": [METHOD]}}) == [METHOD]
    assert read(tmp_path, {"provenance": {"pretrain": {"citations": [METHOD]}}}) == [METHOD]
    assert read(tmp_path, {"provenance": {"pretrain": None}}) == read(tmp_path, {}) == []


@pytest.mark.parametrize("given", [["He (2022)."], {"type": "x"}, 7])
def test_another_form_is_one_line(given, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: citations: not a list"):
        read(tmp_path, {"citations": given})


def test_a_class_named_with_its_module_is_cited_too():
    found = complete([], "detpretrain.models.plain_conv.PlainConvUNet")
    assert [entry["type"] for entry in found] == ["Architecture", "Framework"]
    assert "nnDetection" in found[0]["name"]
