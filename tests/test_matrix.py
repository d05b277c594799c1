"""What `make test-matrix` runs on newer brokers."""

import pytest

import matrix


@pytest.mark.parametrize("options", [[], ["-n", "2", "-q"], ["-k", "streams"]])
def test_options_without_a_path_are_given_to_the_suites_for_all_brokers(options: list[str]) -> None:
    assert matrix.chosen(options) == [*options, "tests/contract", "tests/faults"]


@pytest.mark.parametrize("path", ["tests/faults", "tests/contract/test_streams.py", "tests/test_matrix.py::test_it"])
def test_a_path_is_all_that_is_run(path: str) -> None:
    assert matrix.chosen(["-n", "2", path]) == ["-n", "2", path]
