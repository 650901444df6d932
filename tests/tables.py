"""What the test of every experiment checks of its stored table. (Not in `helpers`: worker processes import that.)"""

import pytest

from tools.experiments import run as experiments


def experiment_fixtures(name: str, scope: str = "function") -> tuple:
    """-> fixtures (module, table) of an experiment: its module, loaded anew in each scope, and its stored rows."""

    @pytest.fixture(scope=scope)
    def module():
        return experiments.load(name)

    @pytest.fixture(scope="module")
    def table():
        return experiments.read(experiments.RESULTS / f"{name}.csv")

    return module, table


def assert_whole(module, table: list[dict]) -> None:
    """The table holds each seed of each setting of the experiment once, and nothing else."""
    wanted = [experiments.key(setting, seed) for setting, seed in experiments.jobs(module)]
    columns = ("seed", *module.settings()[0])
    assert sorted(wanted) == sorted(tuple(row[column] for column in columns) for row in table)


def assert_counts(row: dict, sizes: dict[str, int]) -> None:
    """row of a table, {column: pictures}: each accuracy is a count of pictures, rounded to four digits."""
    for column, n in sizes.items():
        right = float(row[column]) * n
        assert abs(right - round(right)) < 0.03, (column, row)
