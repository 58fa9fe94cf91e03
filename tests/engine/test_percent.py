"""Percentages: which texts are one, and the number that each stands for."""

import pickle

import pytest

from engine.config import config_text
from engine.percent import Percent


@pytest.mark.parametrize("text", ["0%", "50%", "12.5 %", "100%", "100.000%"])
def test_a_percentage_keeps_the_text_that_was_written(text):
    percent = Percent(f" {text} ")
    assert percent == text
    assert percent.number == float(text.rstrip("% "))
    assert pickle.loads(pickle.dumps(percent)) == percent


@pytest.mark.parametrize(
    "text", ["", "%", "50", "-1%", "100.1%", "1e1%", "5%%", ".5%", "5.%", "50 percent", "9" * 30 + "%"]
)
def test_a_text_that_is_no_percentage_is_refused(text):
    assert not Percent.matches(text)
    with pytest.raises(ValueError, match="expected 0% to 100%"):
        Percent(text)


def test_a_percentage_is_a_place_in_a_range():
    assert Percent("0%").between(2.0, 6.0) == 2.0
    assert Percent("25%").between(2.0, 6.0) == 3.0
    assert Percent("100%").between(2.0, 6.0) == 6.0


def test_a_percentage_is_written_to_yaml_as_text():
    assert config_text({"at": Percent("50%")}) == "at: 50%\n"
