import dataclasses

import pytest

from jaxae.errors import InputError, input_errors
from jaxae.run import command_line
from jaxae.run import config as configs


@dataclasses.dataclass(frozen=True)
class Config(configs.Config):
    lr: float = 0.5
    hidden: tuple[int, ...] = (256,)
    beta: float = 4.0


def test_command_line_sets_fields():
    config = command_line.parse(Config, "", "--hidden 500 20 --batch-size 7 --data-dir x --overwrite".split())
    assert config == Config(hidden=(500, 20), batch_size=7, data_dir="x", overwrite=True)
    assert command_line.parse(Config, "", []).lr == 0.5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--lrr 1", "--lrr"),
        ("--over", "--overwrite"),  # abbreviated
        ("--lr x", "'x'"),
        ("--lr nan", "--lr nan must be at least 0"),
        ("--lr -1", "--lr -1.0 must be at least 0"),
        ("--epochs 0", "--epochs 0 must be at least 1"),
        ("--epochs 1.5", "1.5"),
        ("--epochs 2147483648", "--epochs 2147483648 must be below 2147483648"),
        ("--hidden 5 0", "--hidden 0 must be at least 1"),
        ("--data-dir", "--data-dir"),
        ("--parallel z", "'pmap'"),
        ("--seed -1", "--seed -1 must be at least 0"),
        ("--seed 2147483648", "--seed 2147483648 must be below"),
        ("--figures some", "'none'"),
        ("stray", "stray"),
    ],
)
def test_bad_command_lines_get_one_line(line, says, capsys):
    with pytest.raises(InputError) as caught:
        command_line.parse(Config, "", line.split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "╭" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ("batch_size=10 is not divisible by 4 devices", "--batch-size 10 is not divisible by 4 devices"),
        ("seed=1, seeds=-2: choose", "--seed 1, --seeds -2: choose"),
        ("hidden=(8, 4) are two", "--hidden (8, 4) are two"),
        ("leave out accumulate=2 and overwrite=True", "leave out --accumulate 2 and --overwrite"),
        ("workdir=a/lr=1: is not empty", "--workdir a/lr=1: is not empty"),  # no field, but a name in a path
        ("my_lr=1, tail=2, lr is small, lr= 3", "my_lr=1, tail=2, lr is small, lr= 3"),  # no fields, or no values
    ],
)
def test_arguments_in_a_value_error_become_flags(argument, flag):
    for given in (Config, Config(lr=1.0)):
        with pytest.raises(InputError) as caught, command_line.flags_of(given):
            raise InputError(argument)
        assert str(caught.value) == flag


def test_only_a_value_error_becomes_an_input_error():
    with pytest.raises(InputError, match="^lr=1$"), input_errors():
        raise ValueError("lr=1")
    for error in (TypeError("lr=1"), ArithmeticError("lr=1")):
        with pytest.raises(type(error), match="lr=1"), command_line.flags_of(Config), input_errors():
            raise error
    with pytest.raises(ValueError, match="lr=1") as caught, command_line.flags_of(Config):  # a bug
        raise ValueError("lr=1")
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("fields", [{"lr": -1.0}, {"epochs": 0}, {"hidden": (5, 0)}, {"seed": 2**31 - 1, "seeds": 2}])
def test_library_call_names_arguments_not_flags(fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))}=") as caught:
        Config(**fields)
    assert type(caught.value) is ValueError
    assert "--" not in str(caught.value)


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.parse(Config, "What it is.", ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "What it is." in text
    for field in dataclasses.fields(Config):
        assert command_line.flag(field.name) in text


def test_json_round_trip_and_differences():
    config = Config(hidden=(3, 4), epochs=7, workdir="here")
    fields = configs.to_json(config)
    assert configs.from_json(Config, fields) == config
    assert configs.differences(fields, configs.to_json(dataclasses.replace(config, workdir="there"))) == ""
    other = configs.to_json(dataclasses.replace(config, epochs=8, hidden=(3,)))
    assert configs.differences(fields, other) == "epochs=7 there, 8 here; hidden=[3, 4] there, [3] here"


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
def test_json_with_wrong_fields_is_refused(change):
    with pytest.raises(InputError, match="config.json"):
        configs.from_json(Config, {**configs.to_json(Config()), **change})


def test_documented_configuration_has_the_default_fields():
    """On any data: which data it belongs to, the experiment says (`Experiment.expected`)."""
    base = Config(data="mnist")
    for free in (
        {"seed": 3},
        {"seeds": 4},
        {"workdir": "x"},
        {"precision": "mixed"},
        {"data": "digits"},
        {"figures": "none"},
        {"reduction": "reproducible"},
        {"accumulate": 4},
    ):
        assert configs.documented(dataclasses.replace(base, **free))
    for other in ({"epochs": 1}, {"hidden": (3,)}, {"lr": 0.1}, {"binarize": "static"}):
        assert not configs.documented(dataclasses.replace(base, **other))
