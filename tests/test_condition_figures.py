"""Figures of conditional models: examples under their own conditions, grids under a few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from conftest import new_key
from jaxae import data
from jaxae.core.types import State
from jaxae.experiments import cvae
from jaxae.measure.integration import scores
from jaxae.report import figures
from jaxae.report.figures import conditions, errors
from jaxae.report.wall import wall
from jaxae.training.trained import Trained

rng = np.random.default_rng(0)
COUNT = 40
AGE, COLOUR = np.linspace(20, 60, COUNT), np.array(["red", "blue"] * (COUNT // 2))
CONTEXT = {"age": AGE, "colour": COLOUR}
Y = np.array(["a", "b", "c", "d"])[np.arange(COUNT) % 4]


def untrained(found):
    """A model with random parameters, whose prior and decoder depend on the condition."""
    experiment = cvae.build(cvae.Config(hidden=(8,), latent=3), found.info)
    zeros = jnp.zeros((1, *found.shape)), jnp.zeros((1, found.conditions.size))
    params = experiment.model.init(new_key(), *zeros)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params)
    state = State(jnp.int32(0), params, (), {})
    return Trained(experiment, state, found.shape, real=found.real, conditions=found.conditions)


TABLE = data.from_arrays(rng.normal(size=(COUNT, 5)), Y, context=CONTEXT, test=0)
WITHOUT = data.from_arrays(rng.normal(size=(COUNT, 5)), context=CONTEXT, test=0)


def test_grid_has_every_class_or_a_few_values_of_each_covariate():
    labels, given = conditions.grid(untrained(TABLE), TABLE)
    assert labels == given["y"].tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(given["context"]["age"], AGE[:4], rtol=1e-5)  # those of the first example of the class
    assert given["context"]["colour"].tolist() == ["red", "blue", "red", "blue"]
    labels, given = conditions.grid(untrained(WITHOUT), WITHOUT)
    assert labels == ["age = 24", "age = 40", "age = 56", "colour = blue", "colour = red"]
    np.testing.assert_allclose(given["context"]["age"], [24, 40, 56, 20, 20], rtol=1e-5)
    assert given["context"]["colour"].tolist() == ["red", "red", "red", "blue", "red"]


def test_counterfactuals_decode_the_code_of_an_example_under_every_condition():
    model = untrained(TABLE)
    found = conditions.counterfactuals(model, TABLE, 3)
    assert found.decoded.shape == (3, 4, 5)
    places = found.places
    z = model.encode(TABLE.test.take(places))
    for column, name in enumerate("abcd"):
        context = {"age": AGE[column], "colour": COLOUR[column]}
        np.testing.assert_allclose(
            found.decoded[:, column], model.decode(z, y=name, context=context), rtol=1e-4, atol=1e-5
        )


def test_errors_are_those_under_the_conditions_of_the_examples():
    model = untrained(TABLE)
    found = errors.extremes(model, TABLE, 2, 2)
    every = np.mean((np.asarray(model.reconstruct(TABLE.test)) - TABLE.test.x) ** 2, axis=1)
    np.testing.assert_allclose(found.errors, np.sort(every)[[0, 1, -2, -1]], rtol=1e-4)


def test_model_under_one_condition_uses_it_where_none_is_passed():
    model = untrained(TABLE)
    one = model.under(y="b", context={"age": 33, "colour": "red"})
    z = rng.normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(one.decode(z), model.decode(z, y="b", context=[33, "red"]))
    np.testing.assert_array_equal(one.decode(z, y="c"), model.decode(z, y="c", context=[33, "red"]))
    np.testing.assert_array_equal(one.encode(TABLE.test), model.encode(TABLE.test))
    found, title = conditions.at_first(model, TABLE, "title")
    assert title == "title, class a, age = 20, colour = red"
    np.testing.assert_allclose(found.decode(z), model.decode(z, y="a", context=[20, "red"]), rtol=1e-5)


LINES = [{"epoch": 1, "step": 4, "split": split, "loss": 1.0} for split in ("train", "test")]
KINDS = {
    "images": (rng.integers(0, 256, (COUNT, 12, 9)).astype(np.uint8), {"interpolation", "reconstructions", "extremes"}),
    "series": (rng.normal(size=(COUNT, 7, 2)), {"interpolation", "reconstructions", "extremes"}),
    "table": (rng.normal(size=(COUNT, 5)), {"pairs", "columns", "worst"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "series", "table"])
@pytest.mark.parametrize("classes", [True, False])
def test_all_figures_of_a_conditional_model_are_drawn(kind, classes, tmp_path):
    (x, names), fields = KINDS[kind], {"kind": "series"} if kind == "series" else {}
    found = data.from_arrays(x, Y if classes else None, context=CONTEXT, test=0.4, **(fields))
    model = untrained(found)
    if kind != "table":
        figures.strip(tmp_path / "training", 1, model, found)
    paths = figures.draw(tmp_path, model, found, LINES, "title")
    assert {path.stem for path in paths} >= names | {"traversal", "samples", "counterfactuals", "latent", "activity"}
    page = wall(model, found)
    if kind == "table":
        assert page is None
    else:
        assert page["condition"].startswith("class " if classes else "age = ")


def test_samples_have_a_row_for_each_condition():
    found = data.from_arrays(KINDS["images"][0], Y, test=0)
    model = untrained(found)
    figure = figures.walks.samples(model, found, "title", n=3)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b", "c", "d"]
    y = np.repeat(["a", "b", "c", "d"], 3)
    image = np.asarray(model.sample(jax.random.key(0), 12, y=y))[..., 0]
    drawn = np.asarray(axis.images[0].get_array())
    tiles = drawn.reshape(4, 14, 3, 11).swapaxes(1, 2).reshape(12, 14, 11)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(tiles, image, atol=1e-6)


def test_unconditional_model_has_no_figure_of_conditions(tmp_path):
    model = jaxae.fit("vae", TABLE, epochs=1, hidden=(4,), batch_size=10, progress=False)
    assert conditions.own(model, TABLE, np.arange(3)) == {}
    assert conditions.at_first(model, TABLE, "title") == (model, "title")


def test_integration_figure_shows_the_codes_by_type_and_by_batch():
    """With the scores of the codes; a figure without batches is not drawn."""
    model = untrained(TABLE)
    z, _ = figures.codes_of(model, TABLE, 2000)
    by_type, by_batch = figures.integration(model, TABLE, "a run").axes
    batch = (np.array(TABLE.covariates)[1:] == "colour=red")[TABLE.test.context[:, 1:].argmax(1)].astype(int)
    for axis, numbers, name in ((by_type, TABLE.test.y, "type"), (by_batch, batch, "batch")):
        found = scores(z, numbers, name)
        assert f"knn of {name} {found[f'knn_{name}']:.2f}" in axis.get_title()
        assert f"silhouette of {name} {found[f'silhouette_{name}']:.2f}" in axis.get_title()
        assert len(axis.collections[0].get_offsets()) == COUNT
    assert [text.get_text() for text in by_batch.get_legend().get_texts()] == ["blue", "red"]
    plain = data.from_arrays(TABLE.train.x, Y, test=0)
    assert figures.integration(model, plain, "a run") is None
