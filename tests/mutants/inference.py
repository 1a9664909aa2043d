"""Faults in what a fitted model says of rows: scores, codes, gaps, draws."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["INFERENCE"]

DRAWS, PROPOSALS = "_inference/draws.py", "_inference/proposals.py"
BLOCKS, SCORES = "_inference/blocks.py", "_inference/scores.py"
POSTERIOR, RULES = "_inference/posterior.py", "_inference/quadrature.py"

INFERENCE = [
    Mutant(
        "scores are drawn afresh at every call",
        BLOCKS,
        "normal_rule(self.n_draws, self.model.prior.n_components, self.seed)",
        "normal_rule(self.n_draws, self.model.prior.n_components, np.random.default_rng().integers(2**31))",
        "test_base.py::test_the_same_call_gives_the_same_bits",
    ),
    Mutant(
        "every row of a block has points of its own",
        POSTERIOR,
        'return self.mean + torch.einsum("njk,sk->snj", self.factor, eps[:, 0])',
        "eps = torch.stack([eps[:, 0].roll(i, dims=1) for i in range(len(self.mean))], dim=1)",
        "test_base.py::test_a_row_s_numbers_do_not_depend_on_its_company",
    ),
    Mutant(
        "rows are rounded to float32 before they are looked at",
        BLOCKS,
        "to_rows(X, self.scale, dtype=torch.float64)",
        "to_rows(X.astype(np.float32), self.scale, dtype=torch.float64)",
        "test_scores.py",
    ),
    Mutant(
        "the points of a quadrature weigh alike",
        RULES,
        "logs = np.log(weights / weights.sum())",
        "logs = np.full(len(weights), -np.log(len(weights)))",
        "test_closed_form.py::TestQuadrature",
    ),
    Mutant(
        "draws are not in pairs of both signs",
        RULES,
        "pairs = np.stack([eps, -eps], axis=1)",
        "pairs = np.stack([eps, eps], axis=1)",
        "test_scores.py::test_quasi_normal_has_exactly_mean_zero_and_covariance_one",
    ),
    Mutant(
        "the likelihood is a sum over draws in place of a mean",
        SCORES,
        "log_weight = log_w + log_share",
        "log_weight = log_w",
        "test_scores.py::test_likelihood_of_a_linear_model_is_the_normal_density",
    ),
    Mutant(
        "log q forgets the posterior's width",
        POSTERIOR,
        "return log_normal(eps).sum(-1) - self.log_det",
        "return log_normal(eps).sum(-1) - 0 * self.log_det",
        "test_scores.py::test_likelihood_of_a_linear_model_is_the_normal_density",
    ),
    Mutant(
        "the mask is ignored in a row's density",
        "model.py",
        "return terms if mask is None else terms * mask",
        "return terms",
        "test_scores.py::test_likelihood_with_gaps_is_the_marginal_of_the_present_cells",
    ),
    Mutant(
        "rows with gaps ask the encoder",
        POSTERIOR,
        "if len(gaps) and model.is_density:",
        "if len(gaps) < 0:",
        "test_scores.py::test_likelihood_with_gaps_is_near_the_marginal_where_noise_is_small",
    ),
    Mutant(
        "codes of rows with gaps are the encoder's",
        POSTERIOR,
        "if not (len(gaps) and model.is_density):",
        "if len(gaps) >= 0:",
        "test_scores.py::test_codes_of_rows_with_gaps_are_the_posterior_means_given_the_other_cells",
    ),
    Mutant(
        "the information of a latent ignores the rows' weights",
        SCORES,
        "return rows.mean(kl), spread, mu",
        "return kl.mean(0), spread, mu",
        "test_scores.py::test_latent_information_is_the_kl_of_the_posterior_to_the_prior",
    ),
    Mutant(
        "the spread of a latent ignores the rows' weights",
        SCORES,
        "spread = rows.mean((mu - rows.mean(mu)).square())",
        "spread = mu.var(0, unbiased=False)",
        "test_scores.py::test_latent_information_is_the_kl_of_the_posterior_to_the_prior",
    ),
    Mutant(
        "draws repeat points by chance alone",
        PROPOSALS,
        "order = noise.uniform(n_draws, n_rows).argsort(dim=0)",
        "order = noise.uniform(n_draws, n_rows) * n_draws - noise.uniform(n_draws, n_rows)",
        "test_conditional.py::test_draws_of_a_linear_model_are_as_good_as_perfect_ones",
    ),
    Mutant(
        "points are never doubled",
        DRAWS,
        "if 2 * n_points > MOST_POINTS or",
        "if n_points or",
        "test_conditional.py::test_points_are_doubled_for_the_rows_whose_weights_are_uneven",
    ),
    Mutant(
        "points from the prior count as if they lay around the modes",
        DRAWS,
        "share = 1 - self.n_prior / len(self.z)",
        "share = 1 - 1e-9",
        "test_posteriors.py::test_draws_of_many_latents_come_from_every_mode",
    ),
    Mutant(
        "cells are proposed alike",
        PROPOSALS,
        "which = chosen(shares(log_mass), n_points, noise)",
        "which = chosen(shares(0 * log_mass.clamp_min(-99.0)), n_points, noise)",
        "test_posteriors.py::test_draws_come_from_every_mode_in_proportion",
    ),
    Mutant(
        "quantiles of every row have points of their own",
        PROPOSALS,
        "return super().uniform(shape[0], 1, *shape[2:]).expand(shape)",
        "return super().uniform(*shape)",
        "test_quantiles.py::test_a_row_s_quantiles_do_not_depend_on_its_company",
    ),
    Mutant(
        "whole numbers have quantiles between them",
        "_inference/quantiles.py",
        "atom = reached(high - CLOSE * (high - low)) < level",
        "atom = reached(high - CLOSE * (high - low)) < -level",
        "test_quantiles.py::test_of_any_likelihood_quantiles_are_those_by_integration",
    ),
    Mutant(
        "quantiles come in rising order whatever was asked",
        "_generate.py",
        "values = values[:, np.argsort(np.argsort(wanted))]",
        "values = values[:, :]",
        "test_quantiles.py::test_quantiles_are_tables_with_the_present_cells_untouched",
    ),
    Mutant(
        "Student's t has another distribution function",
        "likelihoods/_robust.py",
        "u * math.sqrt(self.df / (self.df - 2))",
        "u",
        "test_quantiles.py::test_cdf_is_scipys",
    ),
    Mutant(
        "probabilities of categories are means over points of equal weight",
        "_inference/marginals.py",
        "share = shares(log_weight)",
        "share = shares(0 * log_weight.clamp_min(-99.0))",
        "test_conditional.py::test_probabilities_of_categories_are_those_by_integration",
    ),
    Mutant(
        "a cell tells of itself",
        "_generate.py",
        "numbers[:, place] = np.nan",
        "numbers[:, place] = numbers[:, place]",
        "test_conditional.py::test_what_a_cell_says_itself_is_left_out_of_its_probabilities",
    ),
    Mutant(
        "an autoencoder's gaps go on whether that rebuilds the other cells better or not",
        "_inference/scores.py",
        "better = found < least",
        "better = found < least + 1e9",
        "test_probes.py::test_gaps_take_the_reconstruction_and_go_on_where_that_rebuilds_the_other_cells_better",
    ),
]
