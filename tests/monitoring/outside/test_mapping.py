"""The mapping file: what it may hold, and what a mistake in it is answered with."""

from pathlib import Path

import pytest

from infra.errors import ExplainedError
from monitoring.outside.mapping import LogMapping, parse, read_mapping

LEAST = {"id": "i", "time": "t", "prediction": "p"}


def test_three_keys_are_enough_and_the_rest_is_named() -> None:
    assert parse(LEAST, "m") == LogMapping("i", "t", "p")
    whole = parse({**LEAST, "label": "y", "user": "u", "categorical": ["a", "b"], "numeric": "c, d"}, "m")
    assert whole.features == ("a", "b", "c", "d")
    assert whole.roles() == {"id": "i", "time": "t", "prediction": "p", "label": "y", "user": "u"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({**LEAST, "lable": "y"}, "no such key 'lable' (did you mean 'label'?)"),
        ({"id": "i", "time": "t"}, "'prediction' is missing"),
        ({**LEAST, "user": ["u"]}, "user must be one column's name"),
        ({**LEAST, "numeric": {"a": 1}}, "numeric must be a list of column names"),
        ({**LEAST, "numeric": ["a"], "categorical": ["a"]}, "a stands under categorical and under numeric"),
        ({**LEAST, "numeric": ["p"]}, "'p' is the prediction, so it can't be a feature too"),
        (["id"], "must hold keys and column names"),
        (None, "must hold keys and column names"),
    ],
)
def test_a_mistake_is_named_with_its_fix(given: object, said: str) -> None:
    with pytest.raises(ExplainedError, match=r"^shop\.yaml") as error:
        parse(given, "shop.yaml")
    assert said in str(error.value)


def test_a_file_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExplainedError, match="no such file"):
        read_mapping(tmp_path / "mapping.yaml")
    (tmp_path / "mapping.yaml").write_text("id: [")
    with pytest.raises(ExplainedError, match="is no YAML"):
        read_mapping(tmp_path / "mapping.yaml")
