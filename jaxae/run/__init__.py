"""Runs: `fit` and the command line, the run directory, and reading it back.

An experiment script is a docstring, a `Config`, a `build(config, info)`, and `main(Config, build)`.
"""

from jaxae.core.experiment import Experiment as Experiment
from jaxae.core.types import Info as Info
from jaxae.run.build import built as built
from jaxae.run.build import expecting as expecting
from jaxae.run.build import optimizer as optimizer
from jaxae.run.config import Config as Config
from jaxae.run.execute import checked as checked
from jaxae.run.execute import complete as complete
from jaxae.run.execute import loaded as loaded
from jaxae.run.execute import train as train
from jaxae.run.program import layer_tables as layer_tables
from jaxae.run.program import main as main
from jaxae.run.program import program as program
from jaxae.run.read import dataset as dataset
from jaxae.run.read import load as load
from jaxae.run.read import load_finished as load_finished
from jaxae.run.read import recorded_experiment as recorded_experiment
from jaxae.run.read import require_finished as require_finished
from jaxae.run.read import same_data as same_data
