"""A variational autoencoder with a normalizing flow as posterior, as prior, or as both.

Group: variational
Source: Rezende & Mohamed 2015 (planar, radial); Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling 2016 (iaf);
Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever & Abbeel 2017 (flow priors); Dinh, Sohl-Dickstein & Bengio
2017 (realnvp); Papamakarios, Pavlakou & Murray 2017 (maf); Durkan, Bekasov, Murray & Papamakarios 2019 (spline).
Published: no result for this network; a flow prior is about 0.6 nats better than the same flow as posterior (Chen et
al. 2017).
Command: jaxae flow_vae --data mnist --seeds 3 --log-likelihood-samples 500
"""

from dataclasses import dataclass
from typing import Literal

from jaxae import run
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.variants import flow_vae, flows


@dataclass(frozen=True)
class Config(variational.Fields, run.Config):
    """784-200-50-200-784, Adam, static binarization; flows of the 50 latent dimensions."""

    binarize: Literal["none", "static", "dynamic"] = "static"
    epochs: int = 20
    batch_size: int = 100
    hidden: tuple[int, ...] = (200,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 50
    """Number of latent dimensions."""
    posterior_flow: Literal["none", flows.Name] = "iaf"
    """Flow of the posterior samples, which also depends on outputs of the encoder. maf needs one pass of its
    nets per latent dimension."""
    prior_flow: Literal["none", flows.Name] = "none"
    """Flow from N(0, I) to the prior. iaf needs one pass of its nets per latent dimension in training. planar cannot be
    a prior, since it has no inverse in closed form. maf as prior and iaf as posterior have the same networks."""
    flow_steps: int = 2
    """Number of steps of each flow."""
    flow_hidden: tuple[int, ...] = (200,)
    """Widths of the hidden layers of the nets of a step."""
    flow_context: int = 50
    """Number of outputs of the encoder on which the posterior flow depends."""
    flow_bins: int = 8
    """Number of bins of each spline of a spline flow."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    if config.prior_flow == "planar":
        raise ValueError("prior_flow=planar has no inverse in closed form; use radial, realnvp, spline, maf or iaf")
    context = 0 if config.posterior_flow == "none" else config.flow_context
    encoder, decoder, likelihood = variational.dense(config, info, precision=config.precision)
    model = flow_vae.FlowVAE(
        encoder.clone(outputs=(2 * config.latent + context,)),
        decoder,
        likelihood,
        latent=config.latent,
        posterior_flow=_flow(config, config.posterior_flow, context),
        prior_flow=_flow(config, config.prior_flow, 0),
    )
    train = descend(flow_vae.loss(model, variational.warmup(config, info)), run.optimizer(config, info))
    return variational.experiment(config, info, model, train, flow_vae.loss(model), prior=flow_vae.prior(model))


def _flow(config: Config, name: Literal["none", flows.Name], context: int) -> flows.Flow | None:
    if name == "none":
        return None
    return flows.named(name, config.flow_steps, config.latent, config.flow_hidden, context, config.flow_bins)


if __name__ == "__main__":
    run.main(Config, build)
