"""VAETransformerCV: the number of latents by cross-validation."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.base import _fit_context, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.utils import _safe_indexing, check_random_state, indexable
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight

from . import _state
from ._base import forget
from ._params import Count
from .likelihoods import described
from .training import DivergedError
from .transformer import VAETransformer

__all__ = ["VAETransformerCV"]


class _Job(NamedTuple):
    """One model to fit: a candidate on the training rows of a fold."""

    estimator: VAETransformer
    fold: int


class VAETransformerCV(VAETransformer):
    """VAETransformer with the number of latents chosen by cross-validated likelihood.

    Every candidate is trained on every fold; then the best is trained on all rows, and the estimator is that model. Its
    answers are those of `GridSearchCV` over :class:`VAETransformer`.

    Parameters
    ----------
    n_components : sequence of int or "auto", default=(1, 2, 4, 8, 16)
        Numbers of latents to compare.
    param_grid : dict of str to sequence, default=None
        Further parameters to compare, as in `GridSearchCV`.
    cv : int, splitter or iterable, default=5
        How to split the rows; an int is the number of consecutive folds.
    selection : {"best", "one_standard_error"}, default="best"
        Keep the candidate of the highest mean likelihood, or the one of fewest latents among those within one standard
        error of it.
    n_jobs : int, default=None
        Processes that candidates and folds are shared out to. The answer does not depend on it.
    likelihood : str or Likelihood, default="gaussian"
        What a row looks like given its latents. "gaussian": real numbers, one noise variance a column. "student_t",
        "laplace", "johnson_su": with outliers. "log_normal": amounts above 0. "poisson", "negative_binomial": counts.
        "bernoulli": 0 and 1, or images in [0, 1]. "continuous_bernoulli": fractions. "categorical": categories. "auto":
        one for every column of a table, by its type and values; `likelihood_` says which. An instance, such as
        :class:`Gaussian` or :class:`StudentT`, sets more; :class:`Mixed` gives every column its own.
    objective : {"elbo", "iwae", "smoothed"} or Objective, default="elbo"
        What training minimises; see :class:`ELBO` and :class:`IWAE`. "smoothed": `ELBO(input_noise=0.05)`.
    prior : {"normal", "mixture"} or PriorSpec, default="normal"
        p(z), what the latents look like before any data is seen. "normal": N(0, I). "mixture": a Gaussian mixture that
        is learnt with the model; :class:`skvae.priors.Mixture` sets the number of its modes.
    hidden_layer_sizes : sequence of int, default=(100,)
        The encoder's hidden layers; the decoder mirrors them. Empty: a linear model.
    activation : str or callable, default="relu"
        "elu", "gelu", "identity", "logistic", "relu", "sigmoid", "silu", "softplus", "tanh", or a callable without
        arguments that returns an `nn.Module`.
    encoder, decoder : Network, nn.Module, callable or None, default=None
        Networks in place of the perceptrons: a module (copied, weights included) or a callable
        `(n_in, n_out) -> nn.Module` (fresh, seeded weights in every fit). The encoder's outputs are the means, then the
        log variances, of the latents; the decoder's are the likelihood's parameters.
    init : {"pca", "random"}, default="pca"
        Where training starts: at the linear model, or at random weights.
    max_iter : int, default=200
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
        from 20 rows on. With fewer nothing could tell learning from overfitting, so "auto" keeps the linear start,
        where there is one; False trains all the same.
    validation_fraction : float, default=0.1
        Share of the rows held out.
    n_iter_no_change : int or np.inf, default=30
        Epochs without a better held-out bound before training stops.
    n_draws : int, default=64
        Points z a row in `score_samples`, `score` and `impute`.
    random_state : int, RandomState or None, default=None
        Seeds weights, batches and draws; an int gives the same model at every fit.
    verbose : int or bool, default=0
        1 prints a line an epoch.
    device : str, default="cpu"
        "cpu", "cuda", "mps" or "auto".

    Attributes
    ----------
    cv_results_ : dict of str to ndarray
        What `GridSearchCV` reports: `params`, `param_<name>`, `split<k>_test_score`, `mean_test_score`,
        `std_test_score`, `rank_test_score`, and seconds to fit and score. Scores are nats a row, in the units of X.
    scores_ : ndarray of shape (n_candidates, n_splits)
        Mean held-out log-likelihood of every candidate and fold, in nats a row.
    best_params_ : dict
        The chosen candidate.
    best_index_ : int
        Its place in `cv_results_`.
    best_score_ : float
        Its mean score.
    n_splits_ : int
        Number of folds.

    See Also
    --------
    VAETransformer : The fitted attributes of the chosen model are described there.
    sklearn.model_selection.GridSearchCV : Works as well, and for any parameter.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformerCV
    >>> X = load_wine().data
    >>> vae = VAETransformerCV(n_components=[1, 2, 4], cv=3, max_iter=20, random_state=0).fit(X)
    >>> vae.scores_.shape
    (3, 3)
    >>> vae.transform(X).shape == (178, vae.best_params_["n_components"])
    True
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        **VAETransformer._parameter_constraints,
        "n_components": [StrOptions({"auto"}), Count(), "array-like"],
        "param_grid": [dict, None],
        "cv": ["cv_object"],
        "selection": [StrOptions({"best", "one_standard_error"})],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        n_components=(1, 2, 4, 8, 16),
        *,
        param_grid=None,
        cv=5,
        selection="best",
        n_jobs=None,
        likelihood="gaussian",
        objective="elbo",
        prior="normal",
        hidden_layer_sizes=(100,),
        activation="relu",
        encoder=None,
        decoder=None,
        init="pca",
        max_iter=200,
        batch_size="auto",
        solver="adam",
        learning_rate_init=1e-3,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=30,
        n_draws=64,
        random_state=None,
        verbose=0,
        device="cpu",
    ):
        super().__init__(
            n_components,
            likelihood=likelihood,
            objective=objective,
            prior=prior,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            encoder=encoder,
            decoder=decoder,
            init=init,
            max_iter=max_iter,
            batch_size=batch_size,
            solver=solver,
            learning_rate_init=learning_rate_init,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            n_draws=n_draws,
            random_state=random_state,
            verbose=verbose,
            device=device,
        )
        self.param_grid = param_grid
        self.cv = cv
        self.selection = selection
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Choose among the candidates by cross-validation, then fit the best to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; NaN marks a missing cell.
        y : array-like, default=None
            Ignored, unless the splitter or the objective uses it.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in training and in scores.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule.
        """
        with _state.atomic(self):
            candidates = self._candidates()
            table = self._check_rows(X, reset=True)
            table, y = indexable(table, y)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, table, ensure_non_negative=True)
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            base = self._single(seed)
            estimators = [clone(base).set_params(**clone(candidate, safe=False)) for candidate in candidates]
            for estimator in estimators:
                estimator._validate_params()
                self._refuse_without_density(estimator)
            folds = self._folds(table, y, sample_weight)
            jobs = [_Job(clone(e), k) for e in estimators for k in range(len(folds))]
            results = _fit_and_score_all(jobs, folds, table, y, sample_weight, self.n_jobs)
            _warn_of_failures(results["score"])
            index = self._choose(results["score"], candidates)
            best = estimators[index].set_params(verbose=self.verbose)
            best.set_callbacks(*getattr(self, "_skl_callbacks", []))
            best.fit(table, y, sample_weight)
            forget(self)
            own = set(best.get_params(deep=False)) | {"n_features_in_", "_columns"}
            self.__dict__.update({k: v for k, v in vars(best).items() if k not in own and "callback" not in k})
            if "likelihood" not in candidates[index]:
                self.likelihood_ = described(self._parts["likelihood"], self._schema)
            self._report(index, candidates, results)
        return self

    @property
    def partial_fit(self):
        """Not offered: candidates are compared on whole tables."""
        raise AttributeError("VAETransformerCV has no partial_fit; choose the size first, then use VAETransformer.")

    def _single(self, seed: int) -> VAETransformer:
        """The estimator that the candidates vary."""
        names = VAETransformer._get_param_names()
        settings = {name: getattr(self, name) for name in names if name not in ("n_components", "verbose")}
        # Of the whole table: a fold may lack a category.
        settings["likelihood"] = self._parts["likelihood"]
        return VAETransformer(**{**settings, "random_state": seed})

    def _candidates(self) -> list[dict[str, Any]]:
        sizes = list(self.n_components) if np.ndim(self.n_components) else [self.n_components]
        for size in sizes:
            if size != "auto" and not Count().is_satisfied_by(size):
                raise ValueError(f"n_components must hold integers of at least 1 or 'auto'; it holds {size!r}.")
        if not sizes:
            raise ValueError("n_components holds no candidate; give at least one number of latents.")
        others = self.param_grid or {}
        if reserved := {"n_components", "n_draws", "random_state", "device", "verbose"} & set(others):
            raise ValueError(
                f"param_grid holds {sorted(reserved)}, which every candidate shares; set them on the estimator itself."
            )
        return list(ParameterGrid({"n_components": sizes, **others}))

    def _folds(self, X: np.ndarray, y: Any, weight: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Training and test rows of every fold."""
        folds = list(check_cv(self.cv, y).split(X, y))
        if not folds:
            raise ValueError("cv gives no folds; pass a number of folds, a splitter, or an iterable of splits.")
        for k, (_, test) in enumerate(folds):
            if weight is not None and not weight[test].any():
                raise ValueError(f"The test rows of fold {k} all have sample_weight 0, so they have no mean score.")
        return folds

    def _refuse_without_density(self, estimator: VAETransformer) -> None:
        if not hasattr(estimator, "score"):
            raise ValueError(
                f"objective={estimator.objective!r} trains no density of X, so candidates have no likelihood to be "
                "compared by; use GridSearchCV with a scoring of your own."
            )

    def _choose(self, scores: np.ndarray, candidates: list[dict[str, Any]]) -> int:
        """The candidate to keep."""
        means = np.nan_to_num(scores.mean(axis=1), nan=-np.inf)
        best = int(np.argmax(means))
        if self.selection == "best" or scores.shape[1] < 2:
            return best
        error = np.nan_to_num(scores[best].std(ddof=1) / np.sqrt(scores.shape[1]))
        near = np.flatnonzero(means >= means[best] - error)
        return int(min(near, key=lambda i: (_size(candidates[i]["n_components"]), -means[i])))

    def _report(self, best: int, candidates: list[dict[str, Any]], results: dict[str, np.ndarray]) -> None:
        """Set what cross-validation found, in GridSearchCV's words."""
        scores = results["score"]
        means = scores.mean(axis=1)
        table: dict[str, Any] = {}
        for name in ("fit_time", "score_time"):
            table[f"mean_{name}"], table[f"std_{name}"] = results[name].mean(axis=1), results[name].std(axis=1)
        for name in candidates[0]:
            values = np.empty(len(candidates), dtype=object)
            values[:] = [candidate[name] for candidate in candidates]
            table[f"param_{name}"] = np.ma.MaskedArray(values, mask=False)
        table["params"] = candidates
        table |= {f"split{k}_test_score": column for k, column in enumerate(scores.T)}
        table["mean_test_score"], table["std_test_score"] = means, scores.std(axis=1)
        ranked = np.where(np.isnan(means), np.nanmin(means) - 1, means)
        table["rank_test_score"] = rankdata(-ranked, method="min").astype(np.int32)
        self.cv_results_, self.scores_, self.n_splits_ = table, scores, scores.shape[1]
        self.best_index_, self.best_params_, self.best_score_ = best, candidates[best], float(means[best])


def _warn_of_failures(scores: np.ndarray) -> None:
    """Say how many fits diverged; raise ValueError where no candidate is left."""
    failed = np.isnan(scores)
    if failed.any(axis=1).all():
        raise ValueError(
            "Training diverged for every candidate. Lower learning_rate_init, or clip extreme values of X."
        )
    if failed.any():
        warnings.warn(
            f"{failed.sum()} of {failed.size} fits diverged in their first epoch; their scores are NaN.",
            FitFailedWarning,
            stacklevel=5,
        )


def _size(n_components: Any) -> float:
    """ "auto" is no number, and so comes last."""
    return np.inf if n_components == "auto" else n_components


def _fit_and_score_all(
    jobs: list[_Job], folds: list, X: np.ndarray, y: Any, weight: Any, n_jobs: int | None
) -> dict[str, np.ndarray]:
    """Fit and score every job: score, fit_time and score_time, (n_candidates, n_splits)."""
    # In processes: threads would wait for each other between small operations.
    calls = (delayed(_fit_and_score)(job.estimator, *folds[job.fold], X, y, weight) for job in jobs)
    found = np.array(Parallel(n_jobs=n_jobs)(calls)).reshape(-1, len(folds), 3)
    return dict(zip(("score", "fit_time", "score_time"), np.moveaxis(found, -1, 0), strict=True))


def _fit_and_score(
    estimator: VAETransformer, train: np.ndarray, test: np.ndarray, X: np.ndarray, y: Any, weight: Any
) -> tuple[float, float, float]:
    """The score of one model, and the seconds it took to fit and to score."""
    began = time.perf_counter()
    with warnings.catch_warnings(), suppress(DivergedError):
        # The score says how good a candidate is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(*_rows_at(train, X, y, weight))
    fitted = time.perf_counter()
    score = _score(estimator, test, X, weight)
    return score, fitted - began, time.perf_counter() - fitted


def _score(estimator: VAETransformer, test: np.ndarray, X: np.ndarray, weight: Any) -> float:
    """Mean log-likelihood of the test rows, in nats; NaN for a model whose training diverged at once."""
    if not estimator.__sklearn_is_fitted__():
        return np.nan
    return float(np.average(estimator.score_samples(X[test]), weights=None if weight is None else weight[test]))


def _rows_at(index: np.ndarray, X: np.ndarray, y: Any, weight: Any) -> tuple[Any, Any, Any]:
    return X[index], None if y is None else _safe_indexing(y, index), None if weight is None else weight[index]
