"""Encoders and decoders: modules that map arrays to arrays, without losses.

Every net takes `keys`, one per example, in training, and None otherwise: no dropout, and running averages in batch
norm. `axis` is the mapped axis of batch statistics (see `Batch.axis`).
Initial kernels are Glorot uniform (Glorot & Bengio 2010, equation 16), biases zero.
Lists of kernels, strides and the like hold one value per layer, or a single one for all.
"""

from jaxae.nets.attention import GatedMLP as GatedMLP
from jaxae.nets.attention import SelfAttention as SelfAttention
from jaxae.nets.causal import CausalTransformer as CausalTransformer
from jaxae.nets.causal import MaskedTransformer as MaskedTransformer
from jaxae.nets.conv import Conv as Conv
from jaxae.nets.conv import Convolution as Convolution
from jaxae.nets.conv import Deconv as Deconv
from jaxae.nets.conv import TransposedConvolution as TransposedConvolution
from jaxae.nets.conv import UpConv as UpConv
from jaxae.nets.discriminator import PatchDiscriminator as PatchDiscriminator
from jaxae.nets.layers import Activation as Activation
from jaxae.nets.layers import Keys as Keys
from jaxae.nets.layers import linear as linear
from jaxae.nets.lstm import LSTM as LSTM
from jaxae.nets.made import MADE as MADE
from jaxae.nets.mlp import MLP as MLP
from jaxae.nets.regularization import Regularization as Regularization
from jaxae.nets.regularization import drop as drop
from jaxae.nets.residual import LAST_INPUT as LAST_INPUT
from jaxae.nets.residual import ResNet as ResNet
from jaxae.nets.residual import UpResNet as UpResNet
from jaxae.nets.subset import Subset as Subset
from jaxae.nets.transformer import PatchDecoder as PatchDecoder
from jaxae.nets.transformer import PatchEncoder as PatchEncoder
from jaxae.nets.wave import WaveDecoder as WaveDecoder
from jaxae.nets.wave import WaveEncoder as WaveEncoder
from jaxae.nets.wrapped import wrap as wrap
