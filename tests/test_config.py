import dataclasses

import pytest

from jaxae import config as configs
from jaxae.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config(configs.Config):
    lr: float = 0.5
    hidden: tuple[int, ...] = (256,)
    beta: float = 4.0


def test_command_line():
    config = configs.parse(Config, "", "--hidden 500 20 --batch-size 7 --data-dir x --overwrite".split())
    assert config == Config(hidden=(500, 20), batch_size=7, data_dir="x", overwrite=True)
    assert configs.parse(Config, "", []).lr == 0.5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--lrr 1", "--lrr"),
        ("--over", "--overwrite"),  # abbreviated
        ("--lr x", "'x'"),
        ("--lr nan", "--lr nan: must be at least 0"),
        ("--lr -1", "--lr -1.0: must be at least 0"),
        ("--epochs 0", "--epochs 0: must be at least 1"),
        ("--epochs 1.5", "1.5"),
        ("--epochs 2147483648", "--epochs 2147483648: must be below 2147483648"),
        ("--hidden 5 0", "--hidden 0: must be at least 1"),
        ("--data-dir", "--data-dir"),
        ("--parallel z", "'pmap'"),
        ("--seed -1", "--seed -1: must be at least 0"),
        ("--seed 2147483648", "--seed 2147483648: must be below"),
        ("stray", "stray"),
    ],
)
def test_bad_command_lines_get_one_line(line, says, capsys):
    with pytest.raises(InputError) as caught:
        configs.parse(Config, "", line.split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "╭" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        configs.parse(Config, "What it is.", ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "What it is." in text
    for field in dataclasses.fields(Config):
        assert configs.flag(field.name) in text


def test_json_round_trip_and_differences():
    config = Config(hidden=(3, 4), epochs=7, workdir="here")
    fields = configs.to_json(config)
    assert configs.from_json(Config, fields) == config
    assert configs.differences(fields, configs.to_json(dataclasses.replace(config, workdir="there"))) == ""
    other = configs.to_json(dataclasses.replace(config, epochs=8, hidden=(3,)))
    assert configs.differences(fields, other) == "--epochs 7 there, 8 here; --hidden [3, 4] there, [3] here"


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": "7"},
        {"hidden": 3},
        {"unknown": 1},
        {"lr": None},
        {"overwrite": 1},
        {"hidden": ["a"]},
        {"precision": "x"},
    ],
)
def test_wrong_json_is_refused(change):
    with pytest.raises(InputError, match="config.json"):
        configs.from_json(Config, {**configs.to_json(Config()), **change})


def test_a_figure_belongs_to_the_documented_configuration():
    base = Config(data="mnist")
    for free in ({"seed": 3}, {"seeds": 4}, {"workdir": "x"}, {"precision": "mixed"}):
        assert configs.documented(dataclasses.replace(base, **free))
    for other in ({"data": "digits"}, {"epochs": 1}, {"hidden": (3,)}, {"lr": 0.1}):
        assert not configs.documented(dataclasses.replace(base, **other))
