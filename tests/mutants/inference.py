"""Faults in what a fitted model says of rows: scores, codes, gaps, draws."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["INFERENCE"]

BLOCKS, SCORES = "_inference/blocks.py", "_inference/scores.py"
POSTERIOR, RULES = "_inference/posterior.py", "_inference/quadrature.py"

INFERENCE = [
    Mutant(
        "scores are drawn afresh at every call",
        BLOCKS,
        "normal_rule(self.n_draws, self.model.prior.n_components, self.seed)",
        "normal_rule(self.n_draws, self.model.prior.n_components, np.random.default_rng().integers(2**31))",
        "test_base.py::test_the_same_call_gives_the_same_bits test_transformer.py test_scores.py",
    ),
    Mutant(
        "every row of a block has points of its own",
        SCORES,
        "_, log_weight = _weighted_points(model, rows, rule)",
        "eps = torch.stack([rule.eps[:, 0] * (-1) ** i for i in range(len(rows))], dim=1)\n"
        "    _, log_weight = _weighted_points(model, rows, Rule(eps, rule.log_weight))",
        "test_base.py::test_a_row_s_numbers_do_not_depend_on_its_company test_scores.py",
    ),
    Mutant(
        "rows are rounded to float32 before they are looked at",
        BLOCKS,
        "to_rows(X[part], self.scale, dtype=torch.float64)",
        "to_rows(X[part].astype(np.float32), self.scale, dtype=torch.float64)",
        "test_faults.py test_transformer.py",
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
        "test_scores.py::test_quasi_normal_has_the_moments_of_a_standard_normal",
    ),
    Mutant(
        "the likelihood is a sum over draws in place of a mean",
        SCORES,
        "model.log_weight(z, log_q, rows.x, rows.mask).total + rule.log_weight",
        "model.log_weight(z, log_q, rows.x, rows.mask).total",
        "test_scores.py::test_likelihood_of_a_linear_model_is_the_normal_density",
    ),
    Mutant(
        "log q forgets the posterior's width",
        SCORES,
        "log_q = log_normal(rule.eps).sum(-1) - factor.diagonal(dim1=1, dim2=2).log().sum(-1)",
        "log_q = log_normal(rule.eps).sum(-1).expand(z.shape[:-1])",
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
        "test_transformer.py test_scores.py",
    ),
    Mutant(
        "the information of a latent ignores the rows' weights",
        SCORES,
        "return rows.mean(kl), spread, mu",
        "return kl.mean(0), spread, mu",
        "test_scores.py test_common.py",
    ),
    Mutant(
        "the spread of a latent ignores the rows' weights",
        SCORES,
        "spread = rows.mean((mu - rows.mean(mu)).square())",
        "spread = mu.var(0, unbiased=False)",
        "test_scores.py test_common.py",
    ),
]
