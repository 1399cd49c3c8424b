from collections import OrderedDict
from fractions import Fraction

import pytest

from detpretrain.build import build, locate
from detpretrain.errors import InputError


def test_a_dotted_path_names_an_attribute():
    assert locate("fractions.Fraction") is Fraction


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Fraction", "not a dotted path"),
        (None, "not a dotted path"),
        ("fractions.Fracton", "has no Fracton"),
        ("detpretrain.nowhere.Thing", "No module named 'detpretrain.nowhere'"),
    ],
)
def test_a_wrong_path_is_an_input_error_of_one_line(path, message):
    with pytest.raises(InputError, match=message) as caught:
        locate(path)
    assert "\n" not in str(caught.value)


def test_other_keys_and_arguments_are_passed_on():
    built = build({"class": "fractions.Fraction", "numerator": 6}, denominator=4)
    assert built == Fraction(3, 2)


def test_nested_entries_are_built_and_other_values_left():
    inner = {"class": "fractions.Fraction", "numerator": 1, "denominator": 3}
    built = build({"class": "collections.OrderedDict", "part": inner, "plain": {"a": 1}, "list": [inner]})
    assert built == OrderedDict(part=Fraction(1, 3), plain={"a": 1}, list=[inner])


def test_an_entry_is_not_changed():
    entry = {"class": "fractions.Fraction", "numerator": 1}
    build(entry)
    assert entry == {"class": "fractions.Fraction", "numerator": 1}


def test_no_class_is_an_input_error():
    with pytest.raises(InputError, match="names no class"):
        build({"numerator": 1})


@pytest.mark.parametrize("arguments", [{"numenator": 1}, {"numerator": 1, "denominator": 2, "base": 3}])
def test_arguments_that_the_class_does_not_take_are_an_input_error(arguments):
    with pytest.raises(InputError, match=r"class fractions.Fraction: .*argument"):
        build({"class": "fractions.Fraction", **arguments})


def test_an_argument_that_the_program_gives_is_not_for_the_entry():
    with pytest.raises(InputError, match="numerator is not for a configuration to set"):
        build({"class": "fractions.Fraction", "numerator": 1}, numerator=2)


def test_a_defect_inside_the_class_keeps_its_traceback():
    with pytest.raises(TypeError):
        build({"class": "fractions.Fraction", "numerator": []})
