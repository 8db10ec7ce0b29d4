"""Data sets: images, tables and series as arrays in model units."""

from jaxae.core.types import Info as Info
from jaxae.data.arrays import ARRAY as ARRAY
from jaxae.data.arrays import from_arrays as from_arrays
from jaxae.data.dataset import Dataset as Dataset
from jaxae.data.dataset import Split as Split
from jaxae.data.dataset import slices as slices
from jaxae.data.dataset import spread as spread
from jaxae.data.dataset import within as within
from jaxae.data.generated import generated as generated
from jaxae.data.options import Options as Options
from jaxae.data.shard_folders import title as title
from jaxae.data.shard_folders import write_shards as write_shards
from jaxae.data.simulated_cells import simulated_cells as simulated_cells
from jaxae.data.sources import Found as Found
from jaxae.data.sources import examples as examples
from jaxae.data.sources import load as load
from jaxae.data.sources import loaded as loaded
from jaxae.data.sources import path_of as path_of
from jaxae.data.splits import hold_out as hold_out
from jaxae.data.summary import summary as summary
from jaxae.data.summary import worded as worded
from jaxae.data.summary import words as words
from jaxae.data.superposition import superposition as superposition
