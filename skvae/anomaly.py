"""VAEAnomalyDetector: a variational autoencoder where IsolationForest would stand."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import OutlierMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._base import BaseVAE
from ._learner import Learner, percentile, total
from .criteria import (
    COMPLETIONS,
    CRITERIA,
    DRAWN,
    MOST_SIMILAR,
    NEEDS,
    View,
    contributions,
    explained,
    named_criterion,
    nearest,
)
from .data import Array, Rows, has_gaps
from .model import VAE
from .priors import AggregatedPosterior
from .scores import quasi_normal

__all__ = ["VAEAnomalyDetector"]


# How many times a block's numbers the differences to similar rows may be: 32 MB.
BEYOND_CACHE = 16
# What `contamination` may be.
SHARE = Interval(Real, 0, 0.5, closed="right")


class VAEAnomalyDetector(OutlierMixin, Learner):
    """Variational autoencoder for anomaly detection.

    The model learns what normal rows look like; a row it finds unlikely is an anomaly. By default a row is judged by
    the evidence lower bound with the training rows' aggregated posterior as the prior: how well the decoder explains
    the row, and how close its code lies to the codes of the training rows. A training row is judged without its own
    code. Columns are standardised inside, so units do not matter, and NaN marks a missing cell.

    The defaults differ from :class:`VAETransformer`'s where a benchmark over 22 tables said so: as many latents as
    columns (an anomaly often shows in directions of little variance, which a bottleneck throws away), heavy tails with
    one noise variance (a noise a column would weigh each by how well it is predicted), a little input noise
    (it gives every known row a neighbourhood), fewer epochs and less patience.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of latents. "auto": as many as columns, at most 64.
    criterion : str or callable, default="aggregated"
        What makes a row normal; higher scores are more normal. The codes of up to 5000 training rows are kept, whatever
        the criterion: with as many latents as columns they amount to the rows themselves.

        - "aggregated": log p(x|z) + log q_agg(z) - log q(z|x) at the posterior mean z, where q_agg is the mean of the
          posteriors of the training rows (Hoffman & Johnson 2016).
        - "elbo": the evidence lower bound, whose prior is N(0, I).
        - "log_likelihood": the importance-weighted likelihood, as `VAETransformer.score_samples`.
        - "reconstruction": minus the squared error of the reconstruction, columns standardised.
        - "reconstruction_data": the same in data units: large columns count most.
        - "reconstruction_probability": the mean of log p(x|z) over q(z|x) (An & Cho 2015).
        - "latent": log q_agg(z) alone.
        - a callable as in `skvae.criteria`.
    contamination : float or "auto", default="auto"
        The share of training rows to call anomalies: sets the threshold `offset_`, and says that the table holds
        anomalies (see `support_fraction`). "auto": 1 %, from at most 2000 of the rows. See also `calibrate`, for a
        false alarm rate with a guarantee.
    support_fraction : float or None, default=None
        The share of training rows to train on, the most normal ones: for tables that hold anomalies. They are found as
        in `sklearn.covariance.MinCovDet`, by fitting the linear model to the rows that it finds most likely, three
        times. None: 0.5 if `contamination` is a number, which says that there are anomalies, and 1 if it is "auto".
    likelihood : str or Likelihood, default="johnson_su"
        What a row looks like given its latents, as in :class:`VAETransformer`: "auto" for tables of mixed types.
    objective : {"smoothed", "elbo", "iwae"} or Objective, default="smoothed"
        What training minimises. "smoothed": `ELBO(input_noise=0.05)`.
    prior : {"normal", "mixture"} or PriorSpec, default="normal"
        p(z), what the latents look like before any data is seen. "normal": N(0, I). "mixture": a Gaussian mixture that
        is learnt with the model; :class:`skvae.priors.Mixture` sets the number of its modes.
    hidden_layer_sizes : sequence of int, default=(100,)
        The encoder's hidden layers; the decoder mirrors them. Empty: a linear model.
    activation : str or callable, default="relu"
        "elu", "gelu", "identity", "logistic", "relu", "sigmoid", "silu", "softplus", "tanh", or a callable without
        arguments that returns an `nn.Module`.
    encoder, decoder : Network, nn.Module, callable or None, default=None
        Networks in place of the perceptrons, as in :class:`VAETransformer`.
    init : {"pca", "random"}, default="pca"
        Where training starts: at the linear model, or at random weights.
    max_iter : int, default=50
        Epochs at most.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto": a tenth of the training rows, between 32 and 200.
    solver : {"adam", "adagrad", "rmsprop", "sgd"} or callable, default="adam"
        The optimiser ("sgd": Nesterov momentum with a bounded gradient), or a callable that takes a list of parameters
        and returns a `torch.optim.Optimizer`.
    learning_rate_init : float, default=1e-3
        Step size; a callable solver sets its own.
    early_stopping : bool or "auto", default="auto"
        Hold rows out, stop when their bound no longer rises, and keep the best weights, the start included. "auto":
        from 20 rows on; with fewer the linear start is kept, where there is one.
    validation_fraction : float, default=0.1
        Share of the rows held out.
    n_iter_no_change : int or np.inf, default=10
        Epochs without a better held-out bound before training stops.
    n_draws : int, default=64
        Points z a row for the criteria that average over q(z|x).
    random_state : int, RandomState or None, default=None
        Seeds weights, batches and draws; an int gives the same model at every fit.
    verbose : int or bool, default=0
        1 prints a line an epoch.
    device : str, default="cpu"
        "cpu", "cuda", "mps" or "auto".

    Attributes
    ----------
    offset_ : float
        The threshold: rows of a lower score are anomalies. `decision_function` is the score less the offset.
    support_ : ndarray of bool of shape (n_samples,)
        The rows that were trained on; rows of weight 0 are not counted.
    training_scores_ : ndarray of shape (n_scored,)
        Scores of the training rows (of 2000 random ones with contamination="auto"), each without its own code.
    calibration_scores_ : ndarray of shape (n_rows,)
        Sorted scores of the rows given to `calibrate`; absent before.
    n_components_, n_features_in_, feature_names_in_, n_iter_, best_iter_, loss_curve_, validation_curve_, history_
        As in :class:`VAETransformer`; so are mean_, scale_, latent_information_, active_components_ and module_.

    See Also
    --------
    sklearn.ensemble.IsolationForest : Faster to fit; weaker where columns must be seen together.
    sklearn.neighbors.LocalOutlierFactor : Judges density relative to that of a row's neighbours.

    References
    ----------
    An, J. and Cho, S. (2015). Variational autoencoder based anomaly detection using reconstruction probability.

    Hoffman, M. and Johnson, M. (2016). ELBO surgery: yet another way to carve up the variational evidence lower bound.

    Tomczak, J. and Welling, M. (2018). VAE with a VampPrior. arXiv:1705.07120.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> X, y = load_wine(return_X_y=True)
    >>> detector = VAEAnomalyDetector(random_state=0).fit(X[y == 0])
    >>> bool((detector.predict(X[y == 2]) == -1).mean() > 0.9)
    True
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        **BaseVAE._parameter_constraints,
        "criterion": [StrOptions(set(CRITERIA)), callable],
        "contamination": [StrOptions({"auto"}), SHARE],
        "support_fraction": [None, Interval(Real, 0, 1, closed="right")],
    }

    _learnt = ("_criterion", "_whole_std", "_codes", "_typical", "_typical_explanation", "_reservoir")

    def __init__(
        self,
        n_components="auto",
        *,
        criterion="aggregated",
        contamination="auto",
        support_fraction=None,
        likelihood="johnson_su",
        objective="smoothed",
        prior="normal",
        hidden_layer_sizes=(100,),
        activation="relu",
        encoder=None,
        decoder=None,
        init="pca",
        max_iter=50,
        batch_size="auto",
        solver="adam",
        learning_rate_init=1e-3,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        n_draws=64,
        random_state=None,
        verbose=0,
        device="cpu",
    ):
        self.n_components = n_components
        self.criterion = criterion
        self.contamination = contamination
        self.support_fraction = support_fraction
        self.likelihood = likelihood
        self.objective = objective
        self.prior = prior
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def _check_parts(self, parts: dict[str, Any]) -> None:
        """A criterion must be one that the objective can answer."""
        needs = NEEDS.get(self.criterion, frozenset()) if isinstance(self.criterion, str) else frozenset()
        lacking = " and a ".join(sorted(needs - parts["objective"].offers))
        if lacking:
            raise ValueError(
                f"criterion={self.criterion!r} needs an objective that offers a {lacking}, which "
                f"objective={self.objective!r} does not; use criterion='reconstruction', or another objective."
            )

    def score_samples(self, X):
        """How normal every row is, by the criterion; higher is more normal.

        With missing cells a row is completed several times from its other cells, and what a missing cell would say is
        what it says of a typical training row: a gap makes no row more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            float64, in nats for the criteria that are logarithms of densities; -inf for a row too far out to be scored.
        """
        check_is_fitted(self)
        return total(self._contributions(self._check_rows(X), summed=True))

    def decision_function(self, X):
        """Scores less the threshold: negative for anomalies.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """-1 for anomalies and 1 for normal rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        labels : ndarray of int of shape (n_samples,)
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def set_contamination(self, contamination):
        """Move the threshold so that this share of the training rows lies below it, without training.

        Parameters
        ----------
        contamination : float
            In (0, 0.5].

        Returns
        -------
        self : object
        """
        check_is_fitted(self)
        if not _is_within(contamination, SHARE):
            raise ValueError(f"contamination={contamination!r} must be a number above 0 and at most 0.5.")
        self.offset_ = percentile(self.training_scores_, contamination)
        self.__dict__.pop("calibration_scores_", None)
        return self

    def calibrate(self, X_normal, *, false_alarm_rate):
        """Set the threshold from normal rows that were not used in fit, so that false alarms are rare by guarantee.

        With n such rows exchangeable with the rows to come, the chance that a normal row is called an anomaly is at
        most `false_alarm_rate`, whatever the model (split conformal prediction; Vovk et al. 2005, Bates et al. 2023).
        The guarantee is on average over calibration sets: with this one, the rate varies around it like a
        Beta(k, n + 1 - k) variable, k = floor(false_alarm_rate (n + 1)).

        Parameters
        ----------
        X_normal : array-like of shape (n_samples, n_features)
            Normal rows, of which none was in fit.
        false_alarm_rate : float
            In (0, 1). At least 1 / false_alarm_rate - 1 rows are needed.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the rate is out of range, or the rows are too few for it.
        """
        check_is_fitted(self)
        rate: Any = false_alarm_rate
        if not _is_within(rate, Interval(Real, 0, 1, closed="neither")):
            raise ValueError(f"false_alarm_rate={rate!r} must be a number between 0 and 1.")
        scores = np.sort(self.score_samples(X_normal))
        # A rate of 0.05 means one row in twenty, which floating point would make a little more than 20.
        place = int(np.floor(rate * (len(scores) + 1) + 1e-9))
        if place < 1:
            raise ValueError(
                f"A false alarm rate of {rate} needs at least {int(np.ceil(1 / rate - 1e-9)) - 1} calibration rows; "
                f"X_normal has {len(scores)}. Give more rows or a higher rate."
            )
        self.calibration_scores_, self.offset_ = scores, float(scores[place - 1])
        return self

    def p_values(self, X):
        """The chance that a normal row is at least as unlikely as each row, from the rows given to `calibrate`.

        p = (1 + the number of calibration rows that score no higher) / (n + 1): for normal rows P(p <= a) <= a for
        every a. `predict` calls a row an anomaly where p is at most the false alarm rate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        p : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If `calibrate` has not been called since the last fit.
        """
        check_is_fitted(self)
        if not hasattr(self, "calibration_scores_"):
            raise ValueError("p_values needs the scores of normal rows; call calibrate first.")
        lower = np.searchsorted(self.calibration_scores_, self.score_samples(X), side="right")
        return (1 + lower) / (len(self.calibration_scores_) + 1)

    def explain(self, X):
        """What every feature adds to a row's score, beside a typical training row.

        The criterion's own split over features; the part that belongs to the latents is shared out among the features
        by integrated gradients along the line from the most similar normal row (see `similar`) to the row, and what
        is left of it stands last.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        contributions : ndarray or DataFrame of shape (n_samples, n_features + 1)
            One column a feature and "latent". Negative is anomalous. A row sums to its score less the mean of
            `training_scores_`. A DataFrame after `set_output(transform="pandas")`.
        """
        check_is_fitted(self)
        values = self._contributions(self._check_rows(X), share_out=True) - self._typical_explanation
        return self._framed(
            X, values, [*(names := self._names()), "latent" if "latent" not in names else "latent (model)"]
        )

    def similar(self, X):
        """The most similar normal row that the model knows, for every row: what was expected in its place.

        The decoded code of a training row (among 1000 of them), which may differ much in a few features, but little in
        the others. `X - similar(X)` says by how much each feature is off, in data units.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        X_similar : ndarray or DataFrame of shape (n_samples, n_features)
            In data units, without gaps.
        """
        check_is_fitted(self)
        view = self._view()
        found = self._by_blocks(
            self._check_rows(X), lambda model, rows: nearest(model, rows, view), widest=self._widest(view, shared=True)
        )
        values = self._scale().to_data(found)
        return (
            self._schema.decoded(values, like=X) if self._schema.categories else self._framed(X, values, self._names())
        )

    def set_output(self, *, transform=None):
        """Choose the container of `explain` and `similar`.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            "default" is an array; None changes nothing.

        Returns
        -------
        self : object
        """
        words = {"default", *ADAPTERS_MANAGER.supported_outputs}
        if transform is not None and transform not in words:
            raise ValueError(f"transform={transform!r} must be one of {sorted(words)} or None.")
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def _framed(self, X: Any, values: np.ndarray, names: list[str]) -> Any:
        """`values` in the container that `set_output` or scikit-learn's configuration asks for."""
        dense = _get_output_config("transform", self)["dense"]
        if dense == "default":
            return values
        return ADAPTERS_MANAGER.adapters[dense].create_container(values, X, columns=names)

    def _names(self) -> list[str]:
        return list(getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)]))

    # Scores

    def _contributions(self, X: Array, share_out: bool = False, summed: bool = False) -> np.ndarray:
        """The criterion's contributions of the rows of X, (N, D + 1), or their sums, (N,)."""
        view, device = self._view(), self._inference_device()
        typical, typical_explanation = (
            torch.tensor(getattr(self, name), device=device) if hasattr(self, name) else None
            for name in ("_typical", "_typical_explanation")
        )
        criterion = named_criterion(self._criterion)

        def of(model: VAE, rows: Rows) -> Tensor:
            if share_out:
                return explained(criterion, model, rows, view, typical, typical_explanation)
            found = contributions(criterion, model, rows, view, typical)
            return found.sum(dim=1) if summed else found

        drawn = self._criterion in DRAWN  # they do not look at the codes
        widest = 1 if drawn and not share_out else self._widest(view, share_out)
        gaps = has_gaps(X)  # only rows with gaps ask for whole posteriors
        return self._by_blocks(X, of, self.n_draws if drawn else 1, widest=widest, factors=gaps)

    def _widest(self, view: View, shared: bool) -> int:
        """Numbers that a criterion, or `nearest`, holds a row.

        What `nearest` holds may pass the cache: with many columns its blocks would be single rows.
        """
        n_codes = len(view.codes.mean)
        return max(n_codes, min(n_codes, MOST_SIMILAR) * self.n_features_in_ // BEYOND_CACHE if shared else 1)

    def _view(self) -> View:
        device = self._inference_device()
        codes = AggregatedPosterior(
            *(torch.tensor(self._codes[name], device=device) for name in AggregatedPosterior._fields)
        )
        completions = quasi_normal(COMPLETIONS, self.n_components_, self._seed).to(device)
        return View(self._rule(), codes, completions, torch.tensor(self.scale_, device=device))


def _is_within(value: Any, interval: Interval) -> bool:
    return not isinstance(value, (bool, np.bool_)) and interval.is_satisfied_by(value)
