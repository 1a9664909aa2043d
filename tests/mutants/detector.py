"""Faults in the anomaly detector: codes, thresholds, calibration, explanations, streams."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["DETECTOR"]

VERDICTS, NORMALITY, CODES = "_verdicts.py", "_normality.py", "priors/_aggregated.py"
REASONS, EXPLAIN, CRITERIA, RESERVOIR = (
    "_reasons.py",
    "_inference/explain.py",
    "_inference/criteria.py",
    "_reservoir.py",
)

DETECTOR = [
    Mutant(
        "criteria weigh by their own spread",
        NORMALITY,
        "weights = first / np.maximum(",
        "weights = np.ones(len(spread)) / np.maximum(",
        "test_anomaly_scores.py::test_several_criteria_are_the_mean_of_each_in_the_first_ones_spread",
    ),
    Mutant(
        "a criterion that hardly varies outweighs the others",
        NORMALITY,
        "np.maximum(spread, first / MOST_WEIGHT)",
        "np.maximum(spread, 1e-9)",
        "test_anomaly_scores.py::test_criteria_that_hardly_vary_in_the_training_rows_do_not_outweigh_the_first",
    ),
    Mutant(
        "the ninth nearest code stands for the tenth",
        CODES,
        "terms.topk(min(NEIGHBOUR, ",
        "terms.topk(min(NEIGHBOUR - 1, ",
        "test_criteria.py::test_a_criterion_is_its_formula",
    ),
    Mutant(
        "the slope of the neighbour's term is that of the sum",
        CODES,
        "torch.addcmul(slope.T[place], z, square.T[place], value=2)",
        "found[0]",
        "test_criteria.py::test_what_is_shared_out_is_the_rise_from_the_nearest_row",
    ),
    Mutant(
        "a training row is judged beside its own code",
        CODES,
        "torch.log1p(-taken / weight)[:, None])",
        "torch.zeros_like(taken)[:, None])",
        "test_criteria.py::test_a_known_row_is_judged_by_the_others_codes",
    ),
    Mutant(
        "weights are ignored in the codes",
        NORMALITY,
        "AggregatedPosterior.of(mean, std.square(), torch.tensor(weight))",
        "AggregatedPosterior.of(mean, std.square(), torch.ones(len(weight), dtype=torch.float64))",
        "test_criteria.py::test_a_code_weighs_what_its_row_does",
    ),
    Mutant(
        "a new threshold keeps the calibration",
        VERDICTS,
        'amend(self, "calibration_scores_", "_calibration", offset_=',
        'amend(self, "_calibration", offset_=',
        "test_anomaly_thresholds.py::test_a_new_fit_or_threshold_forgets_the_calibration",
    ),
    Mutant(
        "p-values lack the row itself",
        VERDICTS,
        "(1 + lower) / (len(calibration) + 1)",
        "lower / len(calibration)",
        "test_anomaly_thresholds.py::test_p_values_count_calibration_rows_that_score_no_higher",
    ),
    Mutant(
        "a calibrated threshold is off by one",
        VERDICTS,
        "float(scores[place - 1])",
        "float(scores[min(place, len(scores) - 1)])",
        "test_anomaly_thresholds.py::test_the_calibrated_threshold_is_the_conformal_one",
    ),
    Mutant(
        "the rate of false alarms forgets the row to come",
        VERDICTS,
        "rate * (len(scores) + 1)",
        "rate * len(scores)",
        "test_anomaly_thresholds.py::test_the_calibrated_threshold_is_the_conformal_one",
    ),
    Mutant(
        "a stream's threshold stays with its first calibration rows",
        VERDICTS,
        'np.concatenate([earlier["X"], rows])[-window:]',
        'np.concatenate([earlier["X"], rows])[:window]',
        "test_anomaly_guarantees.py::test_the_window_holds_the_latest_rows",
    ),
    Mutant(
        "a window's scores are those of an earlier model",
        VERDICTS,
        "if kept is None:\n            return fit",
        "return fit",
        "test_anomaly_guarantees.py::test_the_threshold_follows_the_model",
    ),
    Mutant(
        "rows are called by their own p-value alone",
        VERDICTS,
        "false_discovery_control(p) <=",
        "p <=",
        "test_anomaly_guarantees.py::test_calls_are_benjamini_and_hochbergs",
    ),
    Mutant(
        "a cell is held against what it says itself",
        REASONS,
        "hidden[cell] = np.nan",
        "hidden[cell] += 0.0",
        "test_reasons.py::test_a_cells_deviation_is_that_of_the_conditional_normal",
    ),
    Mutant(
        "a row's reasons lack what no line names",
        REASONS,
        "rest = parts.sum(axis=1) - ",
        "rest = parts[:, -1] - 0 * ",
        "test_reasons.py::test_lines_sum_to_the_score_and_are_the_worst_of_explain",
    ),
    Mutant(
        "a stream keeps its first rows",
        RESERVOIR,
        'kept = np.argsort(self.key, kind="stable")[:size]',
        "kept = np.arange(len(self.key))[:size]",
        "test_anomaly_streams.py::test_a_stream_keeps_a_bounded_sample_of_all_its_rows",
    ),
    Mutant(
        "the latents' part is not shared out",
        EXPLAIN,
        ".sum(dim=0) * way",
        ".sum(dim=0) * 0 * way",
        "test_criteria.py::test_what_is_shared_out_is_the_integral_of_the_gradient",
    ),
    Mutant(
        "a row is most similar to itself",
        EXPLAIN,
        "distance[own[known] // every, known] = torch.inf",
        "distance[own[known] // every, known] += 0.0",
        "test_criteria.py::test_a_known_rows_nearest_is_another",
    ),
    Mutant(
        "a missing cell counts as it was completed",
        EXPLAIN,
        "if typical is not None:",
        "if typical is None:",
        "test_criteria.py::test_a_row_with_gaps_is_the_mean_of_its_completions_and_typical_where_they_are",
    ),
    Mutant(
        "the aggregated criterion forgets q",
        CRITERIA,
        "with_latents(look.log_prob, look.prior - look.log_q)",
        "with_latents(look.log_prob, look.prior)",
        "test_criteria.py::test_a_criterion_is_its_formula",
    ),
    Mutant(
        "codes are as wide as the posteriors",
        CODES,
        "var=self.var * max(WIDTHS, key=o",
        "var=self.var * min(WIDTHS, key=o",
        "test_priors.py::test_widened_takes_the_factor_of_the_best_leave_one_out_likelihood",
    ),
    Mutant(
        "a table with anomalies is trained on whole",
        NORMALITY,
        "kept, used = nearer, closer",
        "kept = nearer",
        "test_anomaly_thresholds.py::test_support_holds_the_asked_share_of_the_most_normal_rows",
    ),
]
