"""Faults in the estimators: what a fit leaves, what a search chooses, what is saved."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["ESTIMATORS"]

FIT, BASE, TRANSFORMER, GENERATE, RACE = "_fit.py", "_base.py", "transformer.py", "_generate.py", "_race.py"
KEPT = "_codes.py"

ESTIMATORS = [
    Mutant(
        "latents are not sorted",
        FIT,
        'before.get("_order", np.argsort(-information, kind="stable"))',
        "np.arange(len(information))",
        "test_transformer.py::test_latents_are_ordered_by_the_information_they_carry",
    ),
    Mutant(
        "latents are sorted on the way out and not on the way back",
        TRANSFORMER,
        "decoded(Z[:, np.argsort(model.order)]",
        "decoded(Z[:, model.order]",
        "test_transformer.py::test_codes_come_back_in_the_order_they_have_outside",
    ),
    Mutant(
        "active latents are those of much information",
        FIT,
        "spread.numpy() > ACTIVE_VARIANCE",
        "information > ACTIVE_VARIANCE",
        "test_transformer.py::test_a_latent_is_active_whose_mean_varies_by_more_than_a_bound",
    ),
    Mutant(
        "the noise variance is in the model's units",
        FIT,
        "np.minimum(noise * scale.scale**2,",
        "np.minimum(noise * scale.scale**0,",
        "test_transformer.py::test_noise_variance_is_in_data_units_squared",
    ),
    Mutant(
        "a start that nothing beats does not know the held-out rows",
        FIT,
        "if result.best == 0 and begun.linear and prepared.held_out is not None:",
        "if result.best < 0:",
        "test_closed_form.py::test_a_start_that_nothing_beats_knows_the_held_out_rows_too",
    ),
    Mutant(
        "the start has seen the rows that judge it",
        FIT,
        "cov = covariance(density, training, settings",
        "cov = covariance(density, rows, settings",
        "test_base.py::test_the_start_has_not_seen_the_rows_that_judge_it",
    ),
    Mutant(
        "every chunk of a stream has a scale of its own",
        "_chunk.py",
        "in_model_units(table, before.scale, settings)",
        "in_model_units(table, reader.likelihood.scale(table.sums.moments), settings)",
        "test_base.py::test_a_later_chunk_is_read_in_the_units_of_the_first",
    ),
    Mutant(
        "a model that ends below the linear one says nothing",
        FIT,
        "if reached < reference - WORTH_A_WARNING - 0.01 * abs(reference):",
        "if reached < reference - 1e9:",
        "test_base.py::test_ending_below_the_linear_model_is_a_warning",
    ),
    Mutant(
        "the former model is forgotten before the new one is there",
        BASE,
        "settings = settings.seeded(self.random_state)\n",
        "settings = settings.seeded(self.random_state)\n        become(self, {})\n",
        "test_base.py::test_divergence_in_the_first_epoch_is_an_error_and_keeps_the_previous_model",
    ),
    Mutant(
        "a saved state is not checked",
        "_saved.py",
        "checked(self, state, self._leaves, self._fault)",
        "checked(self, state, self._leaves, lambda state: None)",
        "test_state.py::test_a_damaged_state_is_an_error_and_takes_no_memory",
    ),
    Mutant(
        "gaps are filled with the columns' means",
        GENERATE,
        "inference.to_data(values)",
        "inference.to_data(0 * values)",
        "test_transformer.py::test_impute_beats_the_mean_and_leaves_present_cells_alone",
    ),
    Mutant(
        "imputation writes into the table it is given",
        GENERATE,
        "numbers = np.array(self._reader().read(X)[:])",
        "numbers = np.asarray(self._reader().read(X)[:])",
        "test_transformer.py::test_impute_returns_a_new_array",
    ),
    Mutant(
        "the imputer ignores weights",
        "imputer.py",
        "model.fit(X, y, sample_weight=sample_weight)",
        "model.fit(X, y)",
        "test_imputer.py::test_weights_reach_the_model",
    ),
    Mutant(
        "the imputer's draws are means",
        "imputer.py",
        "if self.sample_posterior:",
        "if self.sample_posterior and self.estimator_ is None:",
        "test_imputer.py::test_sampling_the_posterior_gives_draws_of_its_random_state",
    ),
    Mutant(
        "a search ignores weights in its scores",
        RACE,
        "np.average(leg.scores[weight > 0], weights=weight[weight > 0])",
        "np.average(leg.scores[weight > 0])",
        "test_model_selection.py::test_weights_count_in_training_and_in_scores",
    ),
    Mutant(
        "a race drops the best",
        RACE,
        "return clearly | failed",
        "return ~(clearly | failed)",
        "test_race.py::test_equals_are_kept",
    ),
    Mutant(
        "a race's rule takes folds for fresh tables",
        RACE,
        "np.sqrt(1 / n_folds + test_ratio)",
        "np.sqrt(1 / n_folds)",
        "test_race.py::test_a_candidate_is_dropped_where_its_lag_exceeds_nadeau_and_bengios_interval",
    ),
    Mutant(
        "a race's rule does not count its comparisons",
        RACE,
        "1 - ERROR / (n_looks * max(1, n_candidates - 1))",
        "1 - ERROR",
        "test_race.py::test_a_candidate_is_dropped_where_its_lag_exceeds_nadeau_and_bengios_interval",
    ),
    Mutant(
        "nobody is dropped from a race",
        RACE,
        "self.alive = [i for i in self.alive if i not in dropped]",
        "self.alive = [i for i in self.alive if i >= 0]",
        "test_race.py::test_those_behind_are_dropped_and_the_others_do_not_notice",
    ),
    Mutant(
        "the smallest good model is the best one",
        "model_selection.py",
        "near = left[means[left] >= means[best] - error]",
        "near = left[means[left] >= means[best]]",
        "test_selection.py::test_the_smallest_model_within_one_standard_error_is_chosen",
    ),
    Mutant(
        "pooling takes few tables for many",
        "pooling.py",
        "added = (1 + 1 / m) * between",
        "added = between",
        "test_pooling.py::test_three_numbers_by_hand",
    ),
    Mutant(
        "pooling forgets that a table is small",
        "pooling.py",
        "of_present / (1 + of_present / df)",
        "df",
        "test_pooling.py::test_degrees_of_freedom_of_a_small_table",
    ),
    Mutant(
        "all codes are drawn around alike, whatever their rows weigh",
        KEPT,
        "torch.multinomial(weight, ",
        "torch.multinomial(torch.ones_like(weight), ",
        "test_kept_codes.py::test_heavier_rows_are_drawn_more_often",
    ),
    Mutant(
        "draws have the square of the codes' spread",
        KEPT,
        "var[place].sqrt() * eps",
        "var[place] * eps",
        "test_kept_codes.py::test_draws_have_the_weighted_codes_moments",
    ),
    Mutant(
        "a stream keeps its last chunk",
        KEPT,
        "(chunk if known is None else known.joined(chunk))",
        "(chunk if known is None else chunk)",
        "test_kept_codes.py::test_a_stream_keeps_an_even_sample_of_its_rows",
    ),
    Mutant(
        "gaps are another row's",
        KEPT,
        "self.gaps[place]",
        "self.gaps[place - 1]",
        "test_kept_codes.py::test_gaps_are_those_of_the_rows_drawn_around",
    ),
    Mutant(
        "of a file the first rows are kept",
        KEPT,
        "np.sort(rng.choice(len(table) // size, RUNS, False))",
        "range(RUNS)",
        "test_kept_codes.py::test_of_a_file_runs_of_rows_are_read",
    ),
]
