"""Errors of spaces, architectures and modules have parts that a program can read."""

import pickle

import pytest
from pydantic import ValidationError

from supernet.architecture import Architecture
from supernet.errors import InvalidError
from supernet.space import SpaceConfig


def test_the_text_joins_the_parts_that_are_not_empty():
    error = InvalidError("a.b", "got 'x'", "y or z", "correct it", suggestion="y")
    assert str(error) == "a.b: got 'x', expected y or z. Did you mean 'y'?; correct it"
    assert str(InvalidError("", "is missing")) == "is missing"
    assert str(InvalidError("a", expected="text")) == "a: expected text"
    assert str(InvalidError("", "is there twice", remedy="remove one")) == "is there twice; remove one"


def test_an_error_goes_from_one_process_to_another_with_its_parts():
    error = InvalidError("a", "got 1", "2", "write 2", suggestion="2")
    copied = pickle.loads(pickle.dumps(error))
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)


def test_an_outer_place_comes_before_the_place_of_an_error():
    inner = InvalidError("b", "got 1", "2", suggestion="2")
    assert str(InvalidError.of(inner, "a")) == "a: b: got 1, expected 2. Did you mean '2'?"
    assert str(InvalidError.of(ValueError("is odd"), "a")) == "a: is odd"


def test_an_unknown_candidate_of_a_space_is_an_error_with_parts():
    with pytest.raises(ValidationError) as raised:
        SpaceConfig(stages=[{"width": 8, "candidates": ["conv_k33"]}])
    error = raised.value.errors()[0]["ctx"]["error"]
    assert (error.where, error.found) == ("stages.0.candidates", "unknown candidate 'conv_k33'")
    assert error.expected.startswith("a name registered in supernet/catalogue.py")
    assert error.suggestions == ("conv_k3",)


def test_an_architecture_file_of_another_format_is_an_error_with_parts():
    with pytest.raises(InvalidError) as raised:
        Architecture.from_json('{"format": "x"}')
    error = raised.value
    assert (error.where, error.found, error.expected) == ("format", "got 'x'", "'proxylessnas/architecture@1'")


def test_a_wrong_space_in_an_architecture_file_keeps_the_parts_of_the_error_and_names_the_key():
    text = '{"format": "proxylessnas/architecture@1", "paths": [], "space": {"stages": [%s]}}'
    with pytest.raises(InvalidError) as raised:
        Architecture.from_json(text % '{"width": 8, "candidates": ["conv_k1", "conv_k1"]}')
    error = raised.value
    assert (error.where, error.remedy) == ("space: stages.0.candidates", "list each candidate once")
    with pytest.raises(InvalidError) as raised:
        Architecture.from_json(text % '{"width": "8", "candidates": ["conv_k1"]}')
    assert raised.value.where.startswith("space.stages.0.width")
