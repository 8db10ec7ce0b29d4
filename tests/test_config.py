import dataclasses
import importlib
import re
import unicodedata
from typing import Literal, get_args, get_origin

import pytest

from jaxae import data, experiments
from jaxae.commands import _docstrings as docstrings
from jaxae.commands import encode, score
from jaxae.errors import InputError, input_errors
from jaxae.experiments import vae
from jaxae.run import command_line
from jaxae.run import config as configs
from jaxae.run.find import find
from jaxae.run.help import help_text


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
        ("--parallel z", "pmap"),
        ("--seed -1", "--seed -1 must be at least 0"),
        ("--seed 2147483648", "--seed 2147483648 must be below"),
        ("--figures some", "none"),
        ("stray", "stray"),
    ],
)
def test_bad_command_lines_raise_one_line_errors(line, says, capsys):
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
        ("workdir=a/lr=1 is not empty", "--workdir a/lr=1 is not empty"),  # a name in a path, not a field
        (
            "my_lr=1, tail=2, lr is small, lr= 3",
            "my_lr=1, tail=2, lr is small, lr= 3",
        ),  # without fields or without values
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


def kinds():
    """The dataclass and the docstring of every command and experiment."""
    for package, name in (("commands", "Options"), ("experiments", "Config")):
        for module in docstrings.names(f"jaxae.{package}"):
            found = importlib.import_module(f"jaxae.{package}.{module}")
            yield module, getattr(found, name), found.__doc__


def groups(text):
    """Title -> flag or metavar -> meaning and default, for the groups of a help text."""
    found = {}
    for title, body in re.findall(r"^(\w+):\n((?:  .+\n?)+)", text, re.M):
        entries = re.split(r"^  (?=\S)", body, flags=re.M)[1:]
        found[title] = {entry.split()[0]: " ".join(re.split(r"\s{2,}", entry.strip())[1:]) for entry in entries}
    return found


def columns(line):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def test_help_has_the_fields_of_the_experiment_first_and_each_field_once():
    found = groups(help_text(vae.Config, "", "jaxae vae"))
    assert [*found] == ["experiment", "optimizer", "data", "run", "devices"]
    common = {configs.flag(field.name) for field in dataclasses.fields(configs.Config)}
    every = [flag for entries in found.values() for flag in entries]
    assert sorted(every) == sorted(configs.flag(field.name) for field in dataclasses.fields(vae.Config))
    assert set(found["experiment"]) == set(every) - common
    assert [*found["experiment"]][:5] == ["--kl-weight", "--capacity", "--capacity-of", "--free-bits", "--hidden"]
    assert {"--lr", "--ema"} <= set(found["optimizer"])
    fields = [configs.flag(field.name) for field in dataclasses.fields(data.Options)]
    assert [*found["data"]] == [*fields, "--data-dir", "--manual-dir"]
    assert {"--epochs", "--workdir"} <= set(found["run"])
    assert {"--parallel", "--coordinator"} <= set(found["devices"])


def test_help_of_a_command_has_its_own_options_before_the_shared_ones():
    found = groups(help_text(score.Options, "", "jaxae score"))
    assert {title: [*entries] for title, entries in found.items()} == {
        "arguments": ["RUN", "DATA"],
        "options": [
            "--out",
            "--by",
            "--p-value",
            "--ensemble",
            "--columns",
            "--member",
            "--y",
            "--context",
            "--module",
        ],
    }
    assert help_text(score.Options, "", "jaxae score").startswith("usage: jaxae score [-h] RUN DATA [OPTIONS]\n")
    assert help_text(encode.Options, "", "jaxae encode").startswith(
        "usage: jaxae encode [-h] RUN DATA --out PATH [OPTIONS]"
    )


def test_help_states_meaning_and_default_of_every_field():
    for module, kind, docstring in kinds():
        found = groups(help_text(kind, docstring, module))
        assert sum(map(len, found.values())) == len(dataclasses.fields(kind)), module
        for title, entries in found.items():
            for flag, text in entries.items():
                meaning, *defaults = re.split(r" \((?=default: |required)", text)
                assert re.search(r"[a-z]", meaning), (module, flag)
                assert len(defaults) == (title != "arguments"), (module, flag, text)
                assert all(re.fullmatch(r"(default: [^'\"]+|required)\)", default) for default in defaults), text


@pytest.mark.parametrize(("terminal", "most"), [("40", 80), ("90", 90), ("200", 99)])
def test_help_fits_its_width_and_the_terminal(terminal, most, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", terminal)
    for module, kind, docstring in kinds():
        with pytest.raises(SystemExit) as stop:
            command_line.parse(kind, docstring, ["--help"], module)
        assert stop.value.code == 0
        assert max(map(columns, capsys.readouterr().out.splitlines())) <= most, module


def test_help_shows_defaults_as_on_the_command_line():
    text = " ".join(help_text(Config, "", "p").split())
    for words in (
        "--lr FLOAT Learning rate. (default: 0.5)",
        "--hidden [INT ...] (default: 256)",
        "{none,static,dynamic}",
    ):
        assert words in text
    assert "Delete the run in --workdir, and start again. (default: off)" in text


def test_help_keeps_the_lines_of_the_description():
    docstring = """An idea.

    jaxae vae --lr 1

Source: one,
two.
Command: jaxae vae --data mnist
Measured: 3.
"""
    lines = help_text(Config, docstring, "p").split("\n\nexperiment:")[0].splitlines()
    assert lines == [
        "usage: p [-h] [OPTIONS]",
        "",
        "An idea.",
        "",
        "    jaxae vae --lr 1",
        "",
        "Source: one, two.",
        "Command: jaxae vae --data mnist",
        "Measured: 3.",
    ]


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
def test_json_with_wrong_fields_raises(change):
    with pytest.raises(InputError, match="config.json"):
        configs.from_json(Config, {**configs.to_json(Config()), **change})


def test_documented_configuration_has_the_default_fields():
    """The data set may be any, since `Experiment.expected` is keyed by it."""
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


@pytest.mark.parametrize("name", experiments.names())
def test_experiments_keep_the_meaning_of_common_fields(name):
    """An experiment may restrict or extend the choices of a common field, but has no field of its own by that name."""
    own, common = (configs.hints_of(kind) for kind in (find(name).Config, configs.Config))
    for field, hint in common.items():
        assert (get_origin(own[field]) is Literal) == (get_origin(hint) is Literal), field
        assert own[field] == hint or set(get_args(own[field])) >= set(get_args(hint)), field
