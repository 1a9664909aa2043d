"""Faults in what is learnt of a table before there is a model: moments, weights, columns, the linear start."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["TABLES"]

MOMENTS, READER, LINEAR = "_tables/moments.py", "_tables/reader.py", "_linear.py"

TABLES = [
    Mutant(
        "codes that are strings are taken for amounts",
        "_tables/doubts.py",
        "len(amounts) > CODES and",
        "len(amounts) > 1 and",
        "test_hints.py::test_others_are_not",
    ),
    Mutant(
        "weights are ignored in the columns' moments",
        MOMENTS,
        "return ColumnSums.of(read(X, part), None if weight is None else weight[part])",
        "return ColumnSums.of(read(X, part))",
        "test_data.py::test_weighted_moments_are_those_of_repeated_rows",
    ),
    Mutant(
        "sums of blocks are added as if their means were one",
        MOMENTS,
        "squares[0] + squares[1] + self.mass * share * step**2",
        "squares[0] + squares[1]",
        "test_data.py::test_sums_of_blocks_add_up_to_those_of_all_rows",
    ),
    Mutant(
        "the size of the weights matters",
        READER,
        "weight = weight / (total / n_rows)",
        "weight = weight * len(weight)",
        "test_common.py::test_only_the_ratios_of_weights_matter test_common.py::test_weights_of_one_are_no_weights",
    ),
    Mutant(
        "rows of weight 0 are trained on",
        READER,
        "rows if weight is None else rows.at(weight > 0)",
        "rows",
        "test_common.py::test_a_row_of_weight_zero_is_no_row",
    ),
    Mutant(
        "infinity is let in",
        READER,
        "if infinite.any():",
        "if infinite.all():",
        "test_base.py::test_bad_data_are_refused_and_leave_no_trace",
    ),
    Mutant(
        "rows are the user's own memory",
        "_tables/batches.py",
        "x = X.copy() if X.dtype == np.float32 and scale.is_identity() else scale.to_model(X)",
        "x = X if X.dtype == np.float32 and scale.is_identity() else scale.to_model(X)",
        "test_data.py::test_rows_are_a_copy_whatever_the_units",
    ),
    Mutant(
        "a missing cell is a present 0",
        "_tables/batches.py",
        "mask = ~np.isnan(x)\n        x[~mask] = 0.0",
        "x[np.isnan(x)] = 0.0",
        "test_data.py::test_rows_hold_zero_and_a_mask_where_a_cell_is_missing",
    ),
    Mutant(
        "categories are permuted between a table and its codes",
        "_tables/schema.py",
        "return codes[inverse]",
        "return (len(known) - 1 - codes)[inverse]",
        "test_imputer.py::test_categories_are_imputed_by_the_most_likely_one",
    ),
    Mutant(
        "weights are ignored in the start's covariance",
        LINEAR,
        "root = np.sqrt(weight, dtype=np.float64)[:, None]",
        "root = np.ones((len(x), 1))",
        "test_linear.py::test_weights_count_as_repeated_rows",
    ),
    Mutant(
        "a start's loadings hold the noise, too",
        LINEAR,
        "vectors * np.sqrt(np.maximum(values - noise, 0.0)), noise * one",
        "vectors * np.sqrt(np.maximum(values, 0.0)), noise * one",
        "test_closed_form.py::test_start_is_at_the_maximum_of_probabilistic_pca",
    ),
    Mutant(
        "input noise is forgotten in the start",
        "likelihoods/_start.py",
        "noise * encoding.takes_noise.double().numpy()",
        "0.0 * encoding.takes_noise.double().numpy()",
        "test_objectives.py::test_input_noise_starts_at_the_linear_model_of_noisy_rows",
    ),
    Mutant(
        "the start's encoder is its decoder's transpose",
        LINEAR,
        "return (self.loadings / self.noise[:, None] / self.precision).T",
        "return (self.loadings / self.noise[:, None]).T",
        "test_linear.py::test_encoder_is_the_posterior_mean",
    ),
    Mutant(
        "gaps do not count in the start",
        LINEAR,
        "return n_components > 0 and fits and cov.has_gaps",
        "return n_components > 0 and fits and cov.has_gaps and cov.n_columns < 0",
        "test_linear.py",
    ),
    Mutant(
        "draws of the given rows are shuffled among them",
        "_tables/given.py",
        "numbers = np.repeat(np.arange(len(table)), n_times)",
        "numbers = np.tile(np.arange(len(table)), n_times)",
        "test_given.py::test_of_rows_each_has_its_draws_in_order_and_its_label",
    ),
    Mutant(
        "columns that are given lie where they stand in what is given",
        "_tables/given.py",
        "return [names.index(label) for label in labels]",
        "return list(range(len(labels)))",
        "test_given.py::test_of_rows_each_has_its_draws_in_order_and_its_label",
    ),
]
