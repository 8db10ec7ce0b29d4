"""Mutation score of the unit tests: python scripts/mutants.py [WORD ...]

A mutant is the library with one error in a loss, bound, divergence, schedule or metric; it is killed if one of the unit
tests that are named beside it fails. The script copies the library and its tests into a temporary folder, checks that
these tests pass there, and then applies one mutant at a time. WORD: run only the mutants whose file, description or
issue contains one of the words. Exit code 1 if a mutant survives, if its old text does not occur exactly once in its
file, or if its tests do not run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """An error, and the tests that fail because of it."""

    file: str  # in jaxae/
    old: str  # occurs exactly once in the file
    new: str
    breaks: str
    tests: str  # separated by spaces, in tests/
    issue: str = ""  # of another project that had this defect, as OWNER/REPOSITORY#NUMBER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="default: all mutants")
    words = parser.parse_args().words
    chosen = [m for m in MUTANTS if not words or any(word in f"{m.file} {m.breaks} {m.issue}" for word in words)]
    for mutant in chosen:
        if (count := (ROOT / "jaxae" / mutant.file).read_text().count(mutant.old)) != 1:
            sys.exit(f"jaxae/{mutant.file}: {mutant.old!r} occurs {count} times")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy2(ROOT / "pyproject.toml", copy)
        for name in ("jaxae", "experiments", "tests"):
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        first = run(copy, sorted({test for mutant in chosen for test in mutant.tests.split()}))
        if first.returncode:
            sys.exit(f"{first.stdout}\nthe tests fail without a mutant")
        survivors = 0
        for mutant in chosen:
            path = copy / "jaxae" / mutant.file
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
            killed = run(copy, mutant.tests.split(), PYTHONDONTWRITEBYTECODE="1").returncode == 1
            shutil.copy2(ROOT / "jaxae" / mutant.file, path)  # with the old time, so that its bytecode stays valid
            survivors += not killed
            print(f"{'killed' if killed else 'SURVIVED':8}  {mutant.file:28}  {mutant.breaks}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    sys.exit(survivors > 0)


def run(copy: Path, tests: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run these tests in this copy of the library. SystemExit if pytest cannot run them."""
    options = ["-n0", "-xq", "--tb=line", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "compiled")}  # the one of the test suite
    environment = {**os.environ, **cache, "PYTHONPATH": str(copy), **environment}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        sys.exit(done.stdout + done.stderr)
    return done


# fmt: off
MUTANTS = [Mutant(*row) for row in (
    ("core/divergences.py", "- 1) - q.log_scale", "- 1) + q.log_scale", "sign of the log scale in KL",
     "test_divergences.py::test_kl_against_the_formula_in_float64"),
    ("core/divergences.py", "return 0.5 * (q.mean**2", "return (q.mean**2", "factor 1/2 of KL missing",
     "test_divergences.py::test_kl_against_monte_carlo"),
    ("core/divergences.py", "per_example(kl_normal_terms(q))", "kl_normal_terms(q).mean(axis=1)",
     "KL as a mean over latent dimensions", "test_divergences.py::test_kl_against_the_formula_in_float64",
     "podgorskiy/VAE#1"),
    ("core/divergences.py", "log(2 * pi)) - p.log_scale", "log(2 * pi)) - p.log_scale * jnp.exp(-2 * p.log_scale)",
     "log scale divided by the variance in the normal density", "test_divergences.py::test_normal_against_scipy",
     "clementchadebec/benchmark_VAE#27"),
    ("core/divergences.py", 'jnp.dot(values.reshape(-1, size), jnp.ones(size), precision="highest")',
     "values.reshape(len(values), -1, values.shape[-1]).mean(1).sum(-1)", "sum over the last axis, mean of the others",
     "test_divergences.py::test_per_example_sums_all_axes_but_the_first", "decoderesearch/SAELens#119"),
    ("core/divergences.py", "softplus(-real) + jax.nn.softplus(fake)", "softplus(real) + jax.nn.softplus(-fake)",
     "real and fake swapped",
     "test_divergences.py::test_discrimination_is_the_cross_entropy_of_real_as_one_and_fake_as_zero"),
    ("core/divergences.py", " - log(log_weights.shape[1])", "", "log K missing from the importance weighted bound",
     "test_divergences.py::test_importance_weighted_is_the_log_of_the_mean_weight"),
    ("core/kl_term.py", "kl, batch: batch.scheduled(weight) * per_example(kl)", "kl, batch: per_example(kl)",
     "KL weight ignored", "test_rate.py::test_kl_terms_against_numpy", "AlexanderVNikitin/tsgm#69"),
    ("core/kl_term.py", "jnp.abs(per_example(kl) - batch.scheduled(nats))", "(per_example(kl) - batch.scheduled(nats))",
     "capacity without absolute value", "test_rate.py::test_kl_terms_against_numpy"),
    ("core/kl_term.py", "capacity(weight, scaled(target, warmup))", "capacity(scaled(weight, warmup), target)",
     "warm-up of the weight in place of the capacity",
     "test_rate.py::test_warm_up_multiplies_the_capacity_or_the_kl_weight"),
    ("core/kl_term.py", "jnp.maximum(nats, batch.mean(kl))", "batch.mean(jnp.maximum(nats, kl))",
     "free bits within the mean over the batch", "test_rate.py::test_kl_terms_against_numpy"),
    ("core/kl_term.py", "batch.scheduled(weight) * jnp.sum(jnp.maximum(nats, batch.mean(kl)))",
     "jnp.sum(jnp.maximum(nats, batch.scheduled(weight) * batch.mean(kl)))", "free bits after the KL weight",
     "test_rate.py::test_kl_terms_against_numpy", "CAREamics/careamics#277"),
    ("core/kl_term.py", "step >= starts[1:]", "step > starts[1:]", "cycle begins one step late",
     "test_rate.py::test_cyclical_weight_rises_in_the_first_half_of_each_cycle"),
    ("core/kl_term.py", "jnp.maximum(step - done", "jnp.maximum(step + 1 - done", "warm-up one step early",
     "test_rate.py::test_one_cycle_that_rises_throughout_is_a_linear_warm_up"),
    ("core/kl_term.py", "* examples / batch_size", "* (examples // batch_size)", "epoch rounded down to whole steps",
     "test_rate.py::test_warm_up_ends_after_its_examples_where_an_epoch_is_no_whole_number_of_steps"),
    ("core/mmd.py", "2.0 * x.shape[1]", "2.0", "kernel scale without the latent dimensions",
     "test_adversaries.py::test_discrepancy_against_numpy"),
    ("core/mmd.py", "(jnp.sum(k) - count) / (count * (count - 1))", "jnp.sum(k) / (count * (count - 1))",
     "MMD includes pairs of a code with itself",
     "test_adversaries.py::test_discrepancy_is_zero_on_average_for_equal_distributions_and_positive_for_others",
     "shogun-toolbox/shogun#5133"),
    ("core/mmd.py", "(count * (count - 1))", "(count - 1)", "MMD divided by n - 1 in place of n (n - 1)",
     "test_adversaries.py::test_discrepancy_against_numpy", "schelotto/Wasserstein-AutoEncoders#12"),
    ("core/mmd.py", "- 2 * between", "- between", "factor 2 of the mixed term missing from MMD",
     "test_adversaries.py::test_discrepancy_against_numpy"),
    ("core/step.py", "optax.apply_updates(selected, deltas)", "selected", "parameters never change",
     "test_step.py::test_descend_takes_the_weighted_mean_of_a_loss_per_example", "yzhao062/pyod#704"),
    ("core/step.py", "state.opt_state.params, 1 - decay)", "state.opt_state.params, decay)",
     "decay of the averaged parameters swapped",
     "test_optimizers.py::test_averaged_parameters_are_the_exponentially_weighted_sum_of_all_previous_ones"),
    ("core/step.py", "at >= start", "at > start", "phase begins one step late",
     "test_stacked.py::test_phases_run_their_transitions_in_sequence"),
    ("core/step.py", "jax.vmap(jax.random.bernoulli)(batch.keys(pixels), batch.x)", "batch.x > 0.5",
     "pixels thresholded, not sampled", "test_binary.py::test_dynamic_samples_depend_on_step_and_example_alone"),
    ("core/reduction.py", 'return sums["loss"] / count', 'return sums["loss"]', "gradient of the sum of the losses",
     "test_reduction.py::test_gradient_and_metrics_of_microbatches_are_those_of_the_global_batch"),
    ("core/reduction.py", "_over_devices(jnp.sum(batch.weight)", "_over_devices(jnp.float32(len(batch.weight))",
     "padding counted in the mean", "test_step.py::test_descend_takes_the_weighted_mean_of_a_loss_per_example"),
    ("core/batch.py", "in_axes=(None, 0))(key, self.index)", "in_axes=(None, 0))(key, jnp.arange(len(self.index)))",
     "noise by position in the batch", "test_batch.py::test_noise_is_a_function_of_the_example_not_of_its_position"),
    ("likelihoods/base.py", "> 0, values, 0)", ">= 0, values, 0)", "missing pixels counted",
     "test_likelihoods.py::test_log_likelihood_is_the_sum_over_the_observed_pixels"),
    ("likelihoods/base.py", "return per_example(values)", "return per_example(values) / values[0].size",
     "likelihood as a mean over pixels", "test_vae.py::test_loss_against_numpy", "AntixK/PyTorch-VAE#54"),
    ("likelihoods/bernoulli.py", "- x * logits", "+ x * logits", "sign of the target in the cross-entropy",
     "test_likelihoods.py::test_cross_entropy_and_its_gradient_against_float64"),
    ("likelihoods/normal.py", "log(self.scale)))", "2 * log(self.scale)))", "scale taken as the variance",
     "test_likelihoods.py::test_log_prob_of_every_dimension_against_scipy"),
    ("variants/vae.py", "q.mean + jnp.exp(q.log_scale) * eps", "q.mean + jnp.exp(2 * q.log_scale) * eps",
     "noise scaled by the variance", "test_vae.py::test_reparameterization_has_the_right_moments_and_gradient",
     "rachtsingh/ibp_vae#3"),
    ("variants/vae.py", "return q, reparameterize(q, batch.noise(key, q.mean.shape[1:]))", "return q, q.mean",
     "posterior mean decoded in place of a sample",
     "test_vae.py::test_terms_in_expectation_are_the_closed_form_with_a_kl_weight"),
    ("variants/vae.py", "error + rate(kl, batch)", "error + len(error) / 60_000 * rate(kl, batch)",
     "KL weighted by batch size / number of examples", "test_vae.py::test_loss_against_numpy", "AntixK/PyTorch-VAE#11"),
    ("variants/vae.py", '"kl": divergences.per_example(kl)', '"kl": -divergences.per_example(kl)',
     "sign of the reported KL", "test_vae.py::test_loss_against_numpy", "AntixK/PyTorch-VAE#68"),
    ("variants/vae.py", "return self.posterior(x).mean",
     "return reparameterize(self.posterior(x), jax.random.normal(jax.random.key(0), self.posterior(x).mean.shape))",
     "encode returns a sample", "test_vae.py::test_encode_is_the_posterior_mean_and_decode_is_in_the_unit_interval",
     "clementchadebec/benchmark_VAE#126"),
    ("variants/iwae.py", "kl_weight * (self.prior - self.posterior)", "(self.prior - self.posterior)",
     "KL weight ignored in the importance weights", "test_iwae.py::test_bound_of_five_samples_against_scipy",
     "WenjieDu/PyPOTS#540"),
    ("variants/iwae.py", "return importance_weighted(found.log_weights(kl_weight))",
     "return (jax.nn.softmax(found.log_weights(kl_weight), axis=1) * found.log_weights(kl_weight)).sum(1)",
     "gradient through the normalized weights", "test_iwae.py::test_plain_gradient_is_that_of_a_numpy_reference",
     "AntixK/PyTorch-VAE#34"),
    ("variants/iwae.py", "((1 - b) + b * v)", "((1 - b) + b * jnp.ones_like(v))", "DReG weights not squared",
     "test_iwae.py::test_doubly_reparameterized_gradient_has_the_same_expectation"),
    ("variants/factor_vae.py", "z), _logits(model, variables, permuted)", "permuted), _logits(model, variables, z)",
     "real and permuted codes swapped",
     "test_adversaries.py::test_discriminator_loss_is_the_cross_entropy_of_codes_and_permuted_codes"),
    ("variants/factor_vae.py", "(jax.lax.stop_gradient(vae.sample_posterior(model, variables, batch, k)[1])",
     "(vae.sample_posterior(model, variables, batch, k)[1]", "gradient of the discriminator loss in the encoder",
     "test_adversaries.py::test_discriminator_loss_has_no_gradient_in_the_encoder"),
    ("variants/factor_vae.py", "jnp.take_along_axis(z, orders.T, axis=0)", "z[:, jnp.argsort(orders[:, 0])]",
     "latent dimensions permuted in place of examples",
     "test_adversaries.py::test_permute_keeps_marginals_and_removes_dependence", "AntixK/PyTorch-VAE#28"),
    ("variants/factor_vae.py", "batch.scheduled(gamma) * correlation", "correlation", "weight gamma ignored",
     "test_adversaries.py::test_optimal_discriminator_estimates_the_total_correlation"),
    ("variants/tcvae.py", "batch.scheduled(mutual) * information", "batch.scheduled(beta) * information",
     "weight of the total correlation on the mutual information",
     "test_adversaries.py::test_each_term_of_the_kl_decomposition_has_its_own_weight"),
    ("variants/tcvae.py", "log(examples) + log(density.shape[1])", "log(examples)",
     "batch size missing from minibatch weighted sampling", "test_adversaries.py::test_kl_decomposition_against_scipy"),
    ("variants/infovae.py", "batch.scheduled(kl_weight) * kl + batch.scheduled(mmd_weight) * mmd",
     "batch.scheduled(mmd_weight) * kl + batch.scheduled(kl_weight) * mmd", "weights of KL and MMD swapped",
     "test_adversaries.py::test_infovae_weights_the_kl_term_and_the_mmd"),
    ("variants/wae.py", "+ batch.scheduled(weight) * mmd", "- batch.scheduled(weight) * mmd", "sign of the MMD",
     "test_adversaries.py::test_wasserstein_loss_is_squared_error_and_discrepancy",
     "schelotto/Wasserstein-AutoEncoders#10"),
    ("variants/aae.py", "nn.softplus(-_logits(", "nn.softplus(_logits(", "sign of the generator loss",
     "test_adversaries.py::test_generator_loss_moves_codes_towards_the_prior"),
    ("variants/vampprior.py", "importance_weighted(each.sum(2))", "jax.nn.logsumexp(each.sum(2), axis=1)",
     "log K missing from the mixture", "test_adversaries.py::test_learned_prior_against_scipy"),
    ("variants/vampprior.py", "batch.scheduled(kl_weight) * kl", "kl", "KL weight ignored",
     "test_adversaries.py::test_elbo_with_a_learned_prior_and_a_kl_weight_against_scipy"),
    ("variants/vqvae.py", "self.decoder(straight_through(vectors.before, vectors.after))",
     "self.decoder(vectors.after)", "straight-through estimator missing",
     "test_vqvae.py::test_gradients_against_closed_forms"),
    ("variants/vqvae.py", "commitment * per_example((z - fixed(e)) ** 2)",
     "commitment * per_example((z - fixed(e)) ** 2) / z[0].size", "commitment term as a mean beside sums",
     "test_vqvae.py::test_loss_against_numpy", "clementchadebec/benchmark_VAE#124"),
    ("variants/vqvae.py", 'terms["loss"] + terms["quantization"]', 'terms["loss"] + commitment * terms["quantization"]',
     "commitment weight on the codebook term", "test_vqvae.py::test_loss_against_numpy",
     "CompVis/taming-transformers#57"),
    ("variants/vqvae.py", "(z, e, rows), logits = found", "(z, e, rows), logits = found; e = straight_through(z, e)",
     "codebook term after the straight-through estimator", "test_vqvae.py::test_gradients_against_closed_forms",
     "andylolu2/jax-vqvae-gpt#2"),
    ("variants/codebook.py", "use = decay * use + (1 - decay) * n", "use = (1 - decay) * use + decay * n",
     "decay of the usage swapped", "test_vqvae.py::test_moving_averages_against_numpy_over_three_steps"),
    ("variants/codebook.py", "- n[:, None] * codes", "- codes", "unused codes decay to 0",
     "test_vqvae.py::test_first_vectors_move_a_code_to_their_mean_and_an_unused_code_stays",
     "zalandoresearch/pytorch-vq-vae#10"),
    ("variants/fsq.py", "% 2, 0, 0.5)", "% 2, 0.5, 0)", "offset of odd in place of even levels",
     "test_fsq.py::test_rounding_the_bound_gives_exactly_the_levels"),
    ("variants/fsq.py", "jnp.tanh(z + shift)", "jnp.tanh(z)", "shift missing, so that 0 is not mapped to 0",
     "test_fsq.py::test_rounding_the_bound_gives_exactly_the_levels"),
    ("variants/fsq.py", "straight_through(bounded, jnp.round(bounded))", "jnp.round(bounded)",
     "straight-through estimator missing", "test_fsq.py::test_gradient_is_that_of_the_bound"),
    ("variants/ksparse.py", "jax.lax.top_k(z, k)", "jax.lax.top_k(jnp.abs(z), k)", "largest magnitudes kept",
     "test_ksparse.py::test_largest_against_numpy"),
    ("variants/ksparse.py", "return largest(super().encode(x), self.evaluated)", "return super().encode(x)",
     "all dimensions active after training", "test_ksparse.py::test_evaluation_keeps_alpha_times_as_many_dimensions",
     "decoderesearch/SAELens#308"),
    ("variants/contractive.py", "(h * (1 - h)) ** 2", "(h * (1 - h))", "derivative not squared",
     "test_contractive.py::test_closed_form_against_the_jacobian"),
    ("variants/contractive.py", "v, z.shape))[0] ** 2)", "v, z.shape))[0])", "Jacobian not squared",
     "test_contractive.py::test_norm_against_the_jacobian"),
    ("variants/denoising.py", "scale * batch.noise", "scale**2 * batch.noise", "noise scaled by the variance",
     "test_autoencoder.py::test_gaussian_noise_has_its_moments_and_is_clipped_to_0_and_1"),
    ("variants/autoencoder.py", "(model.output(before) - batch.x) ** 2", "(model.output(before) - x) ** 2",
     "corrupted image as the target", "test_autoencoder.py::test_target_of_denoising_is_the_clean_image"),
    ("variants/autoencoder.py", "/ (mask.sum(1) * rows.shape[2])", "/ rows[0].size", "padding counted in the mean",
     "test_sequence.py::test_loss_against_numpy"),
    ("variants/masked.py", "per_example(hidden * cross_entropy", "per_example(cross_entropy", "loss on all pixels",
     "test_masked.py::test_loss_against_numpy"),
    ("variants/masked.py", "per_example(hidden * (nn.sigmoid", "per_example((1 - hidden) * (nn.sigmoid",
     "loss on the visible pixels", "test_masked.py::test_loss_against_numpy", "Sllambias/asparagus#12"),
    ("variants/masked.py", "batch.x * (1 - hidden), jax.random.clone", "batch.x, jax.random.clone",
     "hidden pixels reach the encoder", "test_masked.py::test_loss_against_numpy"),
    ("variants/sequence.py", "-1), mask)[1]", "-1), mask)[0][:, -1]", "code from the padding of a sequence",
     "test_sequence.py::test_padding_changes_neither_loss_nor_gradient_nor_code"),
    ("variants/sparse.py", "weight * per_example(jnp.abs(z))", "weight * per_example(jnp.abs(z)) / z[0].size",
     "penalty as a mean over latent dimensions",
     "test_autoencoder.py::test_sparse_penalty_and_its_gradient_against_closed_forms"),
    ("variants/stacked.py", "(model.activation(above) - below) ** 2", "(above - below) ** 2",
     "layer reconstructed without its activation", "test_stacked.py::test_greedy_loss_against_numpy"),
    ("variants/tied.py", "self._product(z, self.kernel.T)", "self._product(z, jax.lax.stop_gradient(self.kernel.T))",
     "no gradient through the transposed matrix",
     "test_autoencoder.py::test_tied_weights_have_the_sum_of_both_gradients"),
    ("measure/likelihood.py", "log_w - log(samples)", "log_w", "log K missing from the log-likelihood",
     "test_iwae.py::test_log_likelihood_is_exact_with_the_exact_posterior"),
    ("measure/likelihood.py", "means.var(0) > ACTIVE", "means.std(0) > ACTIVE", "active units by standard deviation",
     "test_iwae.py::test_latent_dimensions_whose_mean_has_a_variance_above_a_hundredth_are_active"),
    ("measure/disentanglement.py", "information / entropy[None]", "information", "MIG without the factor's entropy",
     "test_disentanglement.py::test_mig_against_a_calculation_by_hand"),
    ("measure/disentanglement.py", "np.sort(score, axis=0)[-2:]", "np.sort(score, axis=0)[[0, -1]]",
     "gap to the smallest in place of the second score",
     "test_disentanglement.py::test_sap_against_a_calculation_by_hand"),
    ("measure/disentanglement.py", "disentanglement(importance.T)",
     "disentanglement(importance.reshape(importance.shape[::-1]))", "importance reshaped in place of transposed",
     "test_disentanglement.py::test_identity_has_the_highest_scores",
     "YannDubs/disentangling-vae#78"),
    ("measure/disentanglement.py", "codes[:, used] / spread[used][None]", "codes[:, used]",
     "FactorVAE score of absolute variances",
     "test_disentanglement.py::test_factor_score_compares_variances_with_those_over_all_examples"),
    ("measure/disentanglement.py", "np.random.default_rng(seed).permutation", "np.random.default_rng().permutation",
     "seed ignored", "test_disentanglement.py::test_scores_are_a_function_of_the_seed", "yzhao062/pyod#469"),
    ("measure/images.py", "np.exp(-0.5 * (np.arange", "np.exp(0.5 * (np.arange", "sign in the window of SSIM",
     "test_evaluate.py::test_ssim_against_scikit_image", "AntixK/PyTorch-VAE#41"),
    ("measure/images.py", "c1, c2 = 0.01**2, 0.03**2", "c1, c2 = 0.01, 0.03", "constants of SSIM not squared",
     "test_evaluate.py::test_ssim_against_scikit_image"),
    ("measure/images.py", "astype(np.float32) / 255)", "astype(np.float32))", "bytes compared with pixels in [0, 1]",
     "test_evaluate.py::test_reconstruction_quality_is_the_mean_over_all_images", "decoderesearch/SAELens#518"),
    ("measure/mixture.py", "jnp.log(jnp.asarray(fitted.weights_, jnp.float32))",
     "jnp.asarray(fitted.weights_, jnp.float32)", "weights of the mixture as logits",
     "test_mixture.py::test_samples_have_the_moments_of_the_fitted_codes"),
    ("measure/mixture.py", "else np.sqrt(fitted.covariances_)", "else fitted.covariances_",
     "variance in place of standard deviation", "test_mixture.py::test_covariances_above_64_dimensions_are_diagonal"),
    ("measure/codebook.py", "np.exp(stats.entropy(counts))", "np.exp2(stats.entropy(counts))",
     "perplexity to base 2 of an entropy in nats",
     "test_vqvae.py::test_usage_and_perplexity_cover_the_codes_of_all_test_images"),
    ("measure/plane.py", "logabsdet / 2", "logabsdet", "squared areas",
     "test_evaluate.py::test_unequal_areas_of_crosses_against_the_closed_form"),
    ("measure/plane.py", "f.var(0).sum()", "(f**2).mean(0).sum()", "variance about 0 in place of the mean",
     "test_evaluate.py::test_roughness_of_waves_against_the_integral", "decoderesearch/SAELens#665"),
    ("measure/probe.py", "!= dataset.test.y", "== dataset.test.y", "accuracy in place of the error",
     "test_probe.py::test_error_of_separable_mislabelled_and_xor_classes"),
    ("measure/quality.py", "- 2 * shared", "- shared", "factor 2 missing from the Frechet distance",
     "test_quality.py::test_frechet_distance_of_two_normals_against_closed_forms"),
    ("measure/quality.py", "return precise / len(made), float(recalled.mean())",
     "return float(recalled.mean()), precise / len(made)", "precision and recall swapped",
     "test_quality.py::test_recall_of_a_subset_is_its_fraction_of_the_data"),
    ("nets/mlp.py", "return self.final(self._dense(", "return self.activation(self._dense(",
     "hidden activation at the output", "test_nets.py::test_mlp_activation_is_not_applied_last", "yzhao062/pyod#651"),
    ("nets/mlp.py", "for width in self.hidden:", "for width in (*self.hidden[:1], *self.hidden):",
     "a layer too many", "test_nets.py::test_networks_have_the_expected_number_of_parameters", "yzhao062/pyod#516"),
)]
# fmt: on

if __name__ == "__main__":
    main()
