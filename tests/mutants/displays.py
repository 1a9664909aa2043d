"""Faults in pictures: where codes lie, what is decoded, and where it is drawn."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["DISPLAYS"]

CODES, PIXELS, TESTS = "plotting/_codes.py", "plotting/_pixels.py", "test_plotting_codes.py"
MANIFOLD, LATENT, TRAVERSAL = "plotting/_manifold.py", "plotting/_latent.py", "plotting/_traversal.py"

DISPLAYS = [
    Mutant(
        "a quantile grid is equally spaced",
        CODES,
        "norm.ppf(shares) if codes is None",
        "6 * shares - 3 if codes is None",
        f"{TESTS}::test_the_grid_is_the_unit_squares_and_the_images_are_its_inverse_transform",
    ),
    Mutant(
        "the manifold is drawn upside down",
        MANIFOLD,
        "self.decoded[::-1]",
        "self.decoded",
        f"{TESTS}::test_images_lie_where_their_latents_are",
    ),
    Mutant(
        "the manifold's latents change places",
        MANIFOLD,
        "Z[:, first], Z[:, second] =",
        "Z[:, second], Z[:, first] =",
        f"{TESTS}::test_the_grid_is_the_unit_squares_and_the_images_are_its_inverse_transform",
    ),
    Mutant(
        "the latents that stay stand at 0 whatever the row",
        CODES,
        "return self.rows[row], ",
        "return 0 * self.rows[row], ",
        f"{TESTS}::test_others_stay_at_a_rows_code",
    ),
    Mutant(
        "a traversal shows the columns that move least",
        TRAVERSAL,
        "np.argsort(-np.ptp(lines",
        "np.argsort(np.ptp(lines",
        f"{TESTS}::test_lines_of_the_columns_that_move_most",
    ),
    Mutant(
        "an ellipse is half as wide as it says",
        LATENT,
        "*(2 * DEVIATIONS * std)",
        "*(DEVIATIONS * std)",
        f"{TESTS}::test_ellipses_are_posteriors",
    ),
    Mutant(
        "a pipeline's posterior is that of unscaled rows",
        LATENT,
        "some = estimator[:-1].transform(some)",
        "estimator[:-1].transform(some)",
        f"{TESTS}::test_a_pipelines_posterior",
    ),
    Mutant(
        "missing pixels look like white ones",
        PIXELS,
        "ax.set_facecolor(BEHIND)",
        "pass",
        f"{TESTS}::test_missing_pixels_are_seen_through",
    ),
    Mutant(
        "a histogram is of the present cells alone",
        "plotting/_samples.py",
        "/ max(1, len(own)) for",
        "/ max(1, len(values)) for",
        "test_plotting_samples.py::test_marginals_are_shares_and_pairs_are_rows",
    ),
    Mutant(
        "pairs change their axes",
        "plotting/_samples.py",
        "self._pair(axes[i, j], j, i, kwargs)",
        "self._pair(axes[i, j], i, j, kwargs)",
        "test_plotting_samples.py::test_marginals_are_shares_and_pairs_are_rows",
    ),
    Mutant(
        "a learning curve falls where the bound rises",
        "plotting/_learning_curve.py",
        "-np.asarray(last.loss_curve_)",
        "np.asarray(last.loss_curve_)",
        "test_plotting_training.py::test_curves_are_bounds_and_higher_is_better",
    ),
    Mutant(
        "a principal component tells twice as much",
        "plotting/_information.py",
        "np.log(np.maximum(pca.explained_variance_, noise) / noise) / 2",
        "np.log(np.maximum(pca.explained_variance_, noise) / noise)",
        "test_plotting_training.py::test_beside_them_stand_principal_components",
    ),
]
