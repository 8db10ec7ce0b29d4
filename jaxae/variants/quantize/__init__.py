"""Quantizers map vectors to codes from a finite set. `named` returns one by its name."""

from jaxae.variants.quantize.base import Quantized as Quantized
from jaxae.variants.quantize.base import Quantizer as Quantizer
from jaxae.variants.quantize.base import straight_through as straight_through
from jaxae.variants.quantize.bsq import BSQ as BSQ
from jaxae.variants.quantize.fsq import FSQ as FSQ
from jaxae.variants.quantize.gumbel import Gumbel as Gumbel
from jaxae.variants.quantize.lfq import LFQ as LFQ
from jaxae.variants.quantize.named import Name as Name
from jaxae.variants.quantize.named import Options as Options
from jaxae.variants.quantize.named import named as named
from jaxae.variants.quantize.projected import Projected as Projected
from jaxae.variants.quantize.rotation import rotated as rotated
from jaxae.variants.quantize.several import Grouped as Grouped
from jaxae.variants.quantize.several import Residual as Residual
from jaxae.variants.quantize.simvq import SimVQ as SimVQ
from jaxae.variants.quantize.vq import VQ as VQ
