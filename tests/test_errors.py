import pytest

from detpretrain.errors import InputError, exit_on_input_error


def run(main):
    with pytest.raises(SystemExit) as caught:
        exit_on_input_error(main)
    return caught.value.code


def test_the_status_of_main_is_the_exit_status():
    assert run(lambda: None) == 0
    assert run(lambda: 0) == 0
    assert run(lambda: 3) == 3


def test_an_input_error_is_one_line_and_a_failure(capsys):
    def main():
        raise InputError("a.json: wrong: correct it")

    assert run(main) == 1
    assert capsys.readouterr() == ("", "error: a.json: wrong: correct it\n")


def test_a_defect_keeps_its_traceback():
    def main():
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        exit_on_input_error(main)
