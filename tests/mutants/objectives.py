"""Faults in what training minimises: bounds, their gradients, draws and priors."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["OBJECTIVES"]

ELBO, IWAE, ENGINE = "objectives/_elbo.py", "objectives/_iwae.py", "_training/engine.py"
GRADIENTS = "test_dense.py::test_every_objective_gives_autograds_gradient"

OBJECTIVES = [
    Mutant(
        "the KL is dead",
        ELBO,
        "return self.beta_at(epoch) * (kl + uncharged) - reconstruction",
        "return 0 * kl - reconstruction",
        "test_objectives.py::test_loss_is_the_weighted_sum_of_its_terms",
    ),
    Mutant(
        "the KL has the wrong sign",
        ELBO,
        "return self.beta_at(epoch) * (kl + uncharged) - reconstruction",
        "return -self.beta_at(epoch) * (kl + uncharged) - reconstruction",
        "test_objectives.py::test_loss_is_the_weighted_sum_of_its_terms",
    ),
    Mutant(
        "the KL is a mean over latents",
        ELBO,
        "kl = kl.sum(-1)",
        "kl = kl.mean(-1)",
        "test_closed_form.py::test_loss_weighs_kl_and_reconstruction_one_to_one_as_sums_over_their_dimensions",
    ),
    Mutant(
        "the reconstruction is a mean over columns",
        "model.py",
        "return (found if batch.mask is None else found * batch.mask).sum(-1).mean(0)",
        "return (found if batch.mask is None else found * batch.mask).mean(-1).mean(0)",
        "test_closed_form.py::test_loss_weighs_kl_and_reconstruction_one_to_one_as_sums_over_their_dimensions",
    ),
    Mutant(
        "the KL's closed form forgets the log variance",
        "priors/_normal.py",
        "return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)",
        "return 0.5 * (mu.square() + log_var.exp() - 1)",
        "test_priors.py::test_kl_is_the_closed_form_one_a_latent",
    ),
    Mutant(
        "the KL's stated gradient is dead",
        ELBO,
        "None, charge * slope_mu, charge * slope_log_var)",
        "None, 0 * slope_mu, 0 * slope_log_var)",
        GRADIENTS,
    ),
    Mutant(
        "the KL's stated gradient over log variances has the wrong sign",
        "priors/_normal.py",
        "return 0.5 * (mu * mu - log_var) + slope, mu, slope",
        "return 0.5 * (mu * mu - log_var) + slope, mu, -slope",
        GRADIENTS,
    ),
    Mutant(
        "the sampled KL's stated gradient has the wrong sign",
        ELBO,
        "slope_z = -at.repeat(charge / self.n_draws)",
        "slope_z = at.repeat(charge / self.n_draws)",
        GRADIENTS,
    ),
    Mutant(
        "the sampled KL sums its draws",
        ELBO,
        "kl = mass / self.n_draws * at.sum_draws(draws)",
        "kl = mass * at.sum_draws(draws)",
        GRADIENTS,
    ),
    Mutant(
        "beta goes on rising after its warm-up",
        ELBO,
        "min(1.0, epoch / self.warmup)",
        "epoch / self.warmup",
        "test_objectives.py::test_beta_rises_linearly_over_the_warmup_and_stays",
    ),
    Mutant(
        "free bits are not free",
        ELBO,
        "return (self.free_bits - kl).clamp_min(0.0).sum(-1)",
        "return 0 * kl.sum(-1)",
        "test_objectives.py::test_free_bits_equal_a_hand_computation",
    ),
    Mutant(
        "free bits are charged in the stated gradient",
        ELBO,
        "(kl.sum(-2) > self.free_bits)",
        "(kl.sum(-2) > 0)",
        GRADIENTS,
    ),
    Mutant(
        "input noise has its variance for a standard deviation",
        ELBO,
        "noise.mul_(math.sqrt(self.input_noise))",
        "noise.mul_(self.input_noise)",
        "test_objectives.py::test_input_noise_has_the_variance_it_is_given",
    ),
    Mutant(
        "IWAE is a mean of logarithms",
        IWAE,
        "torch.logsumexp(model.log_weights(batch.x, eps, batch.mask).total, dim=0) - math.log(self.n_draws)",
        "model.log_weights(batch.x, eps, batch.mask).total.mean(dim=0)",
        "test_closed_form.py::test_importance_weighted_bounds_rise_with_the_number_of_draws",
    ),
    Mutant(
        "IWAE sums the weights in place of their mean",
        IWAE,
        ".total, dim=0) - math.log(self.n_draws)",
        ".total, dim=0)",
        "test_objectives.py::test_bound_of_the_iwae_is_the_logarithm_of_the_mean_weight",
    ),
    Mutant(
        "IWAE ignores the mask",
        IWAE,
        "model.log_weights(batch.x, eps, batch.mask)",
        "model.log_weights(batch.x, eps)",
        "test_objectives.py::test_missing_cells_add_nothing",
    ),
    Mutant(
        "the reparametrisation's noise is dropped",
        "model.py",
        "z = mu + torch.exp(0.5 * log_var) * eps\n        outputs",
        "z = mu + 0 * eps\n        outputs",
        "test_closed_form.py::test_loss_weighs_kl_and_reconstruction_one_to_one_as_sums_over_their_dimensions",
    ),
    Mutant(
        "a log variance is taken for a log standard deviation",
        "model.py",
        "z = mu + torch.exp(0.5 * log_var) * eps\n        return",
        "z = mu + torch.exp(log_var) * eps\n        return",
        "test_closed_form.py::test_draws_of_the_posterior_have_its_standard_deviation",
    ),
    Mutant(
        "the step's noise is dropped",
        ENGINE,
        "xp.add(_repeat(mu, self.n_draws), work.std_eps, out=work.z)",
        "work.z[...] = _repeat(mu, self.n_draws)",
        GRADIENTS,
    ),
    Mutant(
        "the step's gradient over log variances is doubled",
        ENGINE,
        "0.5 * _sum_draws(work.std_eps * grad_z, self.n_draws)",
        "_sum_draws(work.std_eps * grad_z, self.n_draws)",
        GRADIENTS,
    ),
    Mutant(
        "log variances out of range have a gradient",
        ENGINE,
        "xp.multiply(grad_log_var, work.raw_log_var == emitted.log_var, out=work.grad_log_var)",
        "work.grad_log_var[...] = grad_log_var",
        "test_dense.py::test_codes_beyond_the_range_pass_no_gradient",
    ),
    Mutant(
        "the step ignores the rows' weights",
        ENGINE,
        "mass = work.mass if batch.weight is None else work.mass * work.view(batch.weight.unsqueeze(-1))",
        "mass = work.mass",
        GRADIENTS,
    ),
    Mutant(
        "the step ignores the mask",
        ENGINE,
        "if batch.mask is None else cells * batch.mask",
        "if batch.mask is None else cells.expand_as(batch.x)",
        GRADIENTS,
    ),
    Mutant(
        "the step leaves the Jacobian of a warp out of the loss",
        ENGINE,
        "return nll if self.volume is None else nll - self.volume / math.prod(nll.shape), slope",
        "return nll, slope",
        GRADIENTS,
    ),
    Mutant(
        "the weights of a batch are ignored in its mean",
        "_tables/batches.py",
        "return torch.tensordot(self.weight, values, dims=1) / len(self)",
        "return values.mean(0)",
        "test_data.py::test_mean_is_weighted_and_lets_scalars_pass",
    ),
    Mutant(
        "a mixture's weights are not normalised",
        "priors/_mixture.py",
        "torch.log_softmax(self.logit, dim=0)",
        "self.logit",
        "test_priors.py::test_a_learnt_mixture_integrates_to_one",
    ),
    Mutant(
        "a mixture draws from its modes alike",
        "priors/_mixture.py",
        "torch.multinomial(torch.softmax(self.logit, dim=0)",
        "torch.multinomial(torch.ones_like(self.logit)",
        "test_priors.py::test_draws_of_a_learnt_mixture_have_its_moments",
    ),
    Mutant(
        "the prior is not trained",
        "objectives/_base.py",
        "[p for p in model.parameters() if p.requires_grad]",
        '[p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("prior")]',
        "test_priors.py::test_a_mixture_finds_groups",
    ),
]
