"""How lines are said: whole words, plurals, sizes."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from gvit.commands import app as cli
from gvit.pictures.progress import plain_bytes, three_digits
from gvit.schemas.text import plural, wrapped
from gvit.train.run.report import round_ticks, smoothed


@given(st.text("ab -", max_size=200), st.integers(1, 80))
def test_a_wrapped_line_breaks_between_words_and_loses_none(text, width):
    lines = wrapped(text, width).split("\n")
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_counts_rates_and_sizes_read_as_people_say_them():
    assert [plural(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [three_digits(n) for n in (0.0123, 0.5, 12.34, 123.4, 12345.6)] == [
        "0.0123",
        "0.5",
        "12.3",
        "123",
        "12346",
    ]
    assert [plain_bytes(n) for n in (12_345, 1.25e6, 3.4e9)] == ["12 kB", "1.2 MB", "3.4 GB"]


@given(st.floats(1e-3, 1e9))
def test_ticks_are_few_round_and_reach_the_top(most):
    ticks = round_ticks(most)
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] >= most * (1 - 1e-6)
    assert ticks[-2] < most
    step = f"{ticks[1]:e}"
    assert float(step.split("e")[0]) in (1, 2, 2.5, 5)


def test_smoothing_is_the_mean_of_the_neighbours_and_keeps_a_line():
    points = [(float(step), float(step % 2)) for step in range(100)]
    inner = [value for step, value in smoothed(points, 21.0) if 20 < step < 80]
    assert inner == pytest.approx([0.5] * len(inner), abs=0.05)
    straight = [(float(step), 3.0 * step) for step in range(50)]
    assert smoothed(straight, 4.0)[10:40] == [(step, pytest.approx(value)) for step, value in straight[10:40]]
    assert smoothed([], 5.0) == []


def commands_of(group, prefix=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name)), command


def test_every_command_has_an_example_of_itself_in_its_help():
    for name, command in commands_of(typer.main.get_command(cli.app)):
        example = command.help.partition("Example: ")[2].split("\n")[0]
        assert example.startswith(f"gvit {name} "), name
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in example.split() if word.startswith("-")} <= options, name
