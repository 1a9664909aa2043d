"""Faults in p(x|z): densities, their gradients, means and draws."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["LIKELIHOODS"]

NOISE, ROBUST, WARPED = "likelihoods/_location_scale.py", "likelihoods/_robust.py", "likelihoods/_warped.py"
BERNOULLI, COUNTS, CATEGORICAL = "likelihoods/_bernoulli.py", "likelihoods/_counts.py", "likelihoods/_categorical.py"
MIXED, GIVEN, START = "likelihoods/_mixed.py", "likelihoods/_given.py", "likelihoods/_start.py"
COVARIATES, MULTINOMIAL = "test_covariates.py::", "likelihoods/_multinomial.py"
SCORE, MARGINAL, MASS = "likelihoods/_normal_score.py", "likelihoods/_marginal.py", "likelihoods/_cell_mass.py"
DENSITY = "test_likelihoods.py::test_log_prob_equals_scipy_in_data_units"
DRAWS = "test_likelihoods.py::test_samples_have_the_moments_and_the_quantiles_of_the_distribution"
MEAN = "test_likelihoods.py::test_mean_is_the_distributions_in_data_units"
GRADIENT = "test_likelihoods.py::test_the_stated_gradient_is_the_default_by_autograd"

LIKELIHOODS = [
    Mutant(
        "a row of counts has no multinomial coefficient",
        MULTINOMIAL,
        "return (x * log_p + _coefficient(x)).to(outputs.dtype)",
        "return (x * log_p).to(outputs.dtype)",
        "test_multinomial.py::test_probabilities_of_all_rows_of_a_total_sum_to_one",
    ),
    Mutant(
        "logits of a row of counts go up where they should fall",
        MULTINOMIAL,
        "growth * (weighed.sum(-1)[:, None] / total) - weighed",
        "weighed - growth * (weighed.sum(-1)[:, None] / total)",
        "test_multinomial.py::test_the_stated_gradient_is_autograds",
    ),
    Mutant(
        "reconstructed counts have the mean total",
        MULTINOMIAL,
        "torch.where(total.isnan(), self.mean_total, total)",
        "self.mean_total",
        "test_multinomial.py::test_reconstructions_have_the_rows_own_totals",
    ),
    Mutant(
        "a row that lacks some counts passes",
        MULTINOMIAL,
        "gaps.any(axis=1) & ~gaps.all(axis=1)",
        "gaps.any(axis=1) & gaps.all(axis=1)",
        "test_multinomial.py::test_a_missing_count_is_refused_and_a_row_without_any_is_drawn",
    ),
    Mutant(
        "rows do not keep the cells that are given",
        GIVEN,
        "return self._zeros(outputs, self.n_features) + x",
        "return self._zeros(outputs, self.n_features)",
        "test_covariates.py",
    ),
    Mutant(
        "a gap in a given column passes",
        GIVEN,
        "if gaps.any():",
        "if gaps.all():",
        f"{COVARIATES}test_a_given_cell_that_is_missing_or_unknown_is_named",
    ),
    Mutant(
        "the encoder of the start does not take out what is given",
        START,
        "encoder[:, regression.given] = -encoder @ regression.coefficients",
        "pass",
        f"{COVARIATES}test_codes_hold_nothing_of_what_is_given",
    ),
    Mutant(
        "the decoder of the start reads what is given in other units",
        START,
        "weight[:, n_components:] @ unit",
        "weight[:, n_components:]",
        f"{COVARIATES}test_training_starts_at_the_maximum_of_the_conditional_likelihood",
    ),
    Mutant(
        "a regression counts rows that lack the column",
        "_linear.py",
        "products = products - lacking.reshape(-1, n_given, n_given)",
        "pass",
        f"{COVARIATES}test_every_column_is_regressed_on_the_rows_that_hold_it",
    ),
    Mutant(
        "the scale is forgotten in the log density",
        NOISE,
        "return -self.log_scale if slope is None else slope(seen) - self.log_scale",
        "return 0 * self.log_scale if slope is None else slope(seen)",
        DENSITY,
    ),
    Mutant(
        "the Jacobian of a warp is missing from the log density",
        NOISE,
        "return -self.log_scale if slope is None else slope(seen) - self.log_scale",
        "return (-self.log_scale).expand_as(seen)",
        DENSITY,
    ),
    Mutant(
        "a noise variance is not learnt",
        NOISE,
        "grad[...] = by_log_var.sum() if shared else by_log_var.reshape(grad.shape)",
        "grad[...] = 0.0",
        GRADIENT,
    ),
    Mutant(
        "a noise variance goes the wrong way",
        NOISE,
        "by_log_var = 0.5 * (cells.total - work)",
        "by_log_var = 0.5 * (work - cells.total)",
        GRADIENT,
    ),
    Mutant(
        "a decoder's noise goes the wrong way",
        NOISE,
        "by_log_var = 0.5 * (cells.mass - work)",
        "by_log_var = 0.5 * (work - cells.mass)",
        GRADIENT,
    ),
    Mutant(
        "a normal mean goes the wrong way",
        NOISE,
        "return slope, residual * slope, None",
        "return -slope, residual * slope, None",
        GRADIENT,
    ),
    Mutant(
        "the noise has no floor",
        NOISE,
        "return self.unit * outputs, at_least(self.log_noise, self.bound())",
        "return self.unit * outputs, self.log_noise",
        "test_likelihoods.py::test_noise_below_the_floor_counts_as_the_floor",
    ),
    Mutant(
        "noise below its floor never comes back",
        "likelihoods/_bounds.py",
        "return (value < low) & (slope > 0)",
        "return value < low",
        "test_likelihoods.py::test_noise_below_the_floor_moves_only_upwards",
    ),
    Mutant(
        "draws of x lack their noise",
        NOISE,
        "mean + torch.exp(0.5 * log_var) * self.shape.draw(mean, rng)",
        "mean",
        DRAWS,
    ),
    Mutant(
        "draws of Student's t have another variance",
        ROBUST,
        "torch.sqrt(0.5 * (self.df - 2) / half_chi2)",
        "torch.sqrt(0.5 * self.df / half_chi2)",
        DRAWS,
    ),
    Mutant(
        "Student's t has another slope",
        ROBUST,
        "(self.df + 1) * u / (self.df - 2 + u * u)",
        "(self.df + 1) * u / (self.df + u * u)",
        GRADIENT,
    ),
    Mutant(
        "a Laplace mean goes the wrong way",
        ROBUST,
        "return math.sqrt(2) * namespace(u).sign(u)",
        "return -math.sqrt(2) * namespace(u).sign(u)",
        GRADIENT,
    ),
    Mutant(
        "the mean of a Johnson SU is its median",
        WARPED,
        "return torch.exp(0.5 * s.square()) * self.decode(y)",
        "return self.decode(y)",
        MEAN,
    ),
    Mutant(
        "the mean of a log-normal is its median",
        WARPED,
        "return torch.exp(0.5 * log_var.exp() * self.spread.square()) * self.decode(y)",
        "return self.decode(y)",
        MEAN,
    ),
    Mutant("a logit goes the wrong way", BERNOULLI, "slope -= lean", "slope += lean", GRADIENT),
    Mutant("a Poisson rate goes the wrong way", COUNTS, "rate -= x", "rate += x", GRADIENT),
    Mutant(
        "a negative binomial's mean goes the wrong way",
        COUNTS,
        "slope = cells.mass * (total * growth - x)",
        "slope = cells.mass * (x - total * growth)",
        GRADIENT,
    ),
    Mutant(
        "a negative binomial's dispersion is not learnt",
        COUNTS,
        "grad[...] = r * (cells.mass * rising_slope).sum(-2) + slope.sum(-2)",
        "grad[...] = 0.0",
        GRADIENT,
    ),
    Mutant(
        "a Poisson lacks the logarithm of x!",
        COUNTS,
        "return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).to(outputs.dtype)",
        "return (x * log_rate - log_rate.exp()).to(outputs.dtype)",
        DENSITY,
    ),
    Mutant(
        "logits of categories go the wrong way",
        CATEGORICAL,
        "(found - own) * spread(mass)",
        "(own - found) * spread(mass)",
        GRADIENT,
    ),
    Mutant(
        "the least likely category is taken",
        CATEGORICAL,
        "return self.padded(expected).argmax(-1).to(expected.dtype)",
        "return self.padded(expected, torch.inf).argmin(-1).to(expected.dtype)",
        DRAWS,
    ),
    Mutant(
        "a category that no row has is impossible",
        CATEGORICAL,
        "return (1 - FLOOR) * self.softmax(outputs) + FLOOR * self.encoding.column_mean",
        "return self.softmax(outputs)",
        "test_likelihoods.py::test_a_category_that_no_row_has_keeps_its_share_of_a_floor",
    ),
    Mutant(
        "the columns of a mixed table are in the order of their members",
        MIXED,
        "return torch.cat(parts, dim=-1).index_select(-1, self.place)",
        "return torch.cat(parts, dim=-1)",
        DENSITY,
    ),
    Mutant(
        "a value's cell is wider on one side",
        SCORE,
        "for end, right in ((x - half, True), (x + half, False)):",
        "for end, right in ((x - half, True), (x + 1.1 * half, False)):",
        DENSITY,
    ),
    Mutant(
        "a common value is drawn from all over its cell's bin",
        SCORE,
        "heap = below | above | (high - low < 2.5 * half)",
        "heap = below | above",
        MEAN,
    ),
    Mutant(
        "draws leave the grid that values were recorded on",
        SCORE,
        "return torch.where(step > 0, (on_grid - shift) / scale, x)",
        "return x",
        "test_normal_score.py::test_what_was_recorded_comes_back",
    ),
    Mutant(
        "the noise of a cell is not learnt",
        SCORE,
        "return -mass * found, mass * shift * precision, (0.5 * mass * growth).sum(-2)[..., None, :]",
        "return -mass * found, mass * shift * precision, (0.0 * mass * growth).sum(-2)[..., None, :]",
        GRADIENT,
    ),
    Mutant(
        "the number of knots is judged by the rows it was learnt from",
        MARGINAL,
        "np.stack([other, one]) / column.weight.sum()",
        "np.stack([one, other]) / column.weight.sum()",
        "test_normal_score.py::test_more_knots_are_no_better_where_values_are_few",
    ),
    Mutant(
        "auto takes whatever is ahead, by however little",
        "likelihoods/_auto.py",
        "best = kind if lead > LEAD + SURE * error else best",
        "best = kind if lead > 0 else best",
        "test_mixed.py::test_auto_goes_by_what_a_column_holds",
    ),
    Mutant(
        "what no row holds is impossible",
        MARGINAL,
        "scores = ndtri((0.5 + share * n) / (n + 1))",
        "scores = ndtri((1e-300 + share * n) / (n + 1))",
        "test_normal_score.py::test_a_common_value_has_its_share_and_none_is_impossible",
    ),
    Mutant(
        "the mass of a cell far out is a difference of ones",
        MASS,
        "return xp.where(w < THIN, thin, xp.where(near > 0, tail, around))",
        "return xp.where(w < THIN, thin, around)",
        "test_normal_score.py::test_the_mass_of_a_cell_and_its_slopes_have_all_digits",
    ),
    Mutant(
        "weights are ignored in what a likelihood learns of its columns",
        "likelihoods/_encoding.py",
        "None if block.weight is None else copies * block.weight.double().numpy()",
        "None",
        "test_likelihoods.py::test_weights_count_as_repeated_rows_in_what_a_density_learns_of_its_table",
    ),
    Mutant(
        "missing cells count in what a likelihood learns of its columns",
        "likelihoods/_encoding.py",
        "x = x if block.mask is None else x.masked_fill(block.mask == 0, torch.nan)",
        "x = x + 0",
        "test_likelihoods.py::test_a_gap_takes_no_part_in_what_a_density_learns_of_its_table",
    ),
]
