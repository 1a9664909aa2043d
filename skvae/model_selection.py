"""VAETransformerCV: the number of latents by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.utils import indexable
from sklearn.utils._param_validation import StrOptions
from torch import nn

from ._callbacks import fit_task
from ._checkpoint import Checkpoint
from ._fit import Fit, fit_model
from ._params import Activation, Count, NetworkLike, RandomState, named
from ._race import Candidate, Fold, Labelled, Race, RaceLog, still_gains
from ._ranks import refuse_group, warn_user
from ._saved import Rule, is_whole
from ._settings import FitSettings
from ._tables.reader import TableReader, relative_weights
from ._torch import draw_seed, resolve_device
from .likelihoods import LIKELIHOODS, Likelihood, resolved
from .networks import Network
from .objectives import Objective
from .priors import PriorSpec
from .transformer import VAETransformer

__all__ = ["VAETransformerCV"]


class VAETransformerCV(VAETransformer):
    """VAETransformer with the number of latents chosen by cross-validated likelihood.

    Candidates are trained on every fold, those clearly behind not to the end; then the best is trained on all rows, and
    the estimator is that model. With `race=False` its answers are those of `GridSearchCV` over :class:`VAETransformer`.

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
    race : bool, default=True
        Drop candidates that are clearly behind after 1/8, 1/4 or 1/2 of their `max_iter` epochs; False trains all to
        the end. See Notes.
    n_jobs : int, default=None
        Processes that candidates and folds are shared out to. The answer does not depend on it.
    likelihood : str or Likelihood, default="gaussian"
        What a row looks like given its latents. "gaussian": real numbers, one noise variance per column. "student_t",
        "laplace", "johnson_su": with outliers. "log_normal": amounts above 0. "normal_score": numbers of any
        distribution, whole numbers, heaps and bounds. "poisson", "negative_binomial": counts.
        "bernoulli": 0 and 1, or images in [0, 1]. "continuous_bernoulli": fractions. "categorical": categories. "auto":
        one for every column of a table, by its type and values; `likelihood_` says which. An instance, such as
        :class:`Gaussian` or :class:`StudentT`, sets more; :class:`Mixed` gives every column its own.
    objective : str or Objective, default="elbo"
        What training minimises: an object, or its name in `skvae.objectives.OBJECTIVES`. It decides which methods there
        are; see :class:`ELBO` and :class:`IWAE`. "input_noise": `ELBO(input_noise=0.05)`.
    prior : str or PriorSpec, default="normal"
        The prior p(z), what latents look like before any data is seen: an object, or its name in `skvae.priors.PRIORS`.
        "normal": N(0, I). "mixture" (:class:`skvae.priors.Mixture`) and "vamp" are learnt with the model.
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The encoder's hidden layers; the decoder mirrors them. Empty: a linear model.
    activation : str or callable, default="relu"
        "elu", "gelu", "identity", "logistic", "relu", "sigmoid", "silu", "softplus", "tanh", or a callable without
        arguments that returns an `nn.Module`.
    encoder, decoder : Network, nn.Module, callable or None, default=None
        Networks in place of the perceptrons: a module (copied, weights included) or a callable
        `(n_in, n_out) -> nn.Module` (fresh, seeded weights in every fit). The encoder's outputs are the means, then the
        log variances, of the latents; the decoder's are the likelihood's parameters.
    init : {"linear", "random"}, default="linear"
        Where training starts: at the linear model, or at random weights.
    max_iter : int, default=200
        Epochs at most; a `ConvergenceWarning` says where the held-out bound was still rising.
    batch_size : int or "auto", default="auto"
        Rows per step. "auto": a tenth of the training rows, between 32 and 200.
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
        Points z per row in `score_samples`, `score` and `impute`.
    keep_codes : bool, default=True
        Keep the codes of up to 5000 training rows for `sample`, as in :class:`VAETransformer`.
    random_state : int, RandomState or None, default=None
        Seeds weights, batches and draws; an int gives the same model at every fit.
    verbose : int or bool, default=0
        1 prints who leads, and who is dropped, each time that candidates are compared, and then some twenty lines about
        the loss of the final fit; 2 one per epoch with all that it is made of.
    device : str, default="cpu"
        "cpu", "cuda", "mps" or "auto".

    Attributes
    ----------
    cv_results_ : dict of str to ndarray
        What `GridSearchCV` reports: `params`, `param_<name>`, `split<k>_test_score`, `mean_test_score`,
        `std_test_score`, `rank_test_score`, and seconds to fit and score. Scores are nats per row, in the units of X.
        `dropped_after` holds the number of epochs after which a candidate was dropped, 0 for those that never were. Its
        scores are those it had then, over `n_draws // 4` points, NaN for folds not begun by then; their mean is over
        the others, and it ranks behind all that went on longer. Candidates are compared, chosen and ranked by
        `mean_compared_score`, of which no single row decides (see Notes).
    scores_ : ndarray of shape (n_candidates, n_splits)
        Mean held-out log-likelihood of every candidate and fold, in nats per row; see `cv_results_`.
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

    Notes
    -----
    Scores are compared row by row: on every fold a candidate's differences from the median of the candidates' scores
    are averaged, the 2 % of rows where it gains most, and the 2 % where it loses most (one row at least), counting as
    the nearest of the others. A test row with a cell that no training row is like would else decide for all. Where no
    row stands out these are the differences of mean scores.

    After 1/8, 1/4 and 1/2 of its epochs a candidate is compared with the leader, the one of the highest mean score, by
    the differences d of their scores on the K folds; the first time on three of them before the others are begun. It is
    dropped if their mean exceeds `t sd(d) sqrt(1/K + r)`: r is
    test rows over training rows (folds share rows, [1]_), and t the quantile of Student's t with K - 1 degrees of
    freedom at which the chance to drop the best candidate, or a given one that is as good by then, is at most 5 % in
    the whole search. With "one_standard_error" it must be a standard error of the leader's mean further behind. Others
    go on where they stopped, with the numbers of a fit without stops; a candidate left alone is trained to the end too,
    so `best_score_` is what `GridSearchCV` would report.

    A candidate that is behind early and would have led in the end is lost; `race=False` is the way out where learning
    rates or solvers are compared. No one is dropped before epoch 20, where the start still decides, or with fewer than
    three folds, which cannot tell.

    References
    ----------
    .. [1] C. Nadeau and Y. Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003).

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
        "race": ["boolean"],
        "n_jobs": [None, Integral],
    }

    _report: ClassVar[dict[str, Rule | None]] = {
        "cv_results_": Rule("a dict", lambda v, D, J: isinstance(v, dict) and all(isinstance(k, str) for k in v)),
        "scores_": Rule("scores of candidates on folds", lambda v, D, J: v.dtype.kind == "f" and v.ndim == 2),
        "n_splits_": Rule("an integer from 1 on", lambda v, D, J: is_whole(v, 1)),
        "best_index_": Rule("an integer from 0 on", lambda v, D, J: is_whole(v)),
        "best_params_": Rule("a dict", lambda v, D, J: isinstance(v, dict) and all(isinstance(k, str) for k in v)),
        "best_score_": Rule("a number", lambda v, D, J: isinstance(v, float)),
    }
    _leaves: ClassVar[dict[str, Rule | None]] = {**VAETransformer._leaves, **_report}
    _groups = (*VAETransformer._groups, frozenset(_report))

    n_components: Any  # several, in place of one

    def __init__(
        self,
        n_components: Sequence[int | str] | int | str = (1, 2, 4, 8, 16),
        *,
        param_grid: dict[str, Sequence[Any]] | None = None,
        cv: Any = 5,
        selection: str = "best",
        race: bool = True,
        n_jobs: int | None = None,
        likelihood: str | Likelihood = "gaussian",
        objective: str | Objective = "elbo",
        prior: str | PriorSpec = "normal",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: Activation = "relu",
        encoder: Network | NetworkLike | None = None,
        decoder: Network | NetworkLike | None = None,
        init: str = "linear",
        max_iter: int = 200,
        batch_size: int | str = "auto",
        solver: str | Callable[[list[nn.Parameter]], torch.optim.Optimizer] = "adam",
        learning_rate_init: float = 1e-3,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 30,
        n_draws: int = 64,
        keep_codes: bool = True,
        random_state: RandomState = None,
        verbose: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            n_components,  # type: ignore[arg-type]
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
            keep_codes=keep_codes,
            random_state=random_state,
            verbose=verbose,
            device=device,
        )
        self.param_grid = param_grid
        self.cv = cv
        self.selection = selection
        self.race = race
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, groups: Any = None) -> Self:
        """Choose among the candidates by cross-validation, then fit the best to X.

        If anything goes wrong, the estimator keeps its previous fitted state; until the fit has ended, other threads
        are answered by that.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; NaN marks a missing cell.
        y : array-like, default=None
            Ignored, unless the splitter or the objective uses it.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in training and in scores, relative to each other: those of less than 1e-12 of the
            largest one count as 0.
        groups : array-like of shape (n_samples,), default=None
            The group of every row, for a splitter that keeps groups together, such as `GroupKFold`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule.
        """
        return self._become(self._fit_to, X, y, sample_weight, groups)

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_to(self, X: Any, y: Any, sample_weight: Any, groups: Any = None) -> Fit:
        refuse_group("VAETransformerCV")
        Checkpoint._of(self, is_one_of_many=True)
        candidates = self._candidates()
        reader, rows = TableReader.learn(type(self).__name__, X, named(self.likelihood, LIKELIHOODS), resolved)
        reader.check(rows)
        rows, y, groups = indexable(rows, y, groups)
        if sample_weight is not None:
            sample_weight = relative_weights(sample_weight, rows)
        table = Labelled(rows, y, sample_weight)
        base = self._base()
        entrants = [self._entrant(base, candidate, reader, table, X) for candidate in candidates]
        folds, near = self._folds(table, groups), self.selection == "one_standard_error"
        seed = draw_seed(self.random_state)  # a refused fit draws nothing
        entrants = [replace(entrant, settings=entrant.settings.seeded(seed)) for entrant in entrants]
        log = RaceLog(type(self).__name__ if self.verbose else "", candidates)
        race = Race(entrants, folds, self.n_jobs, near, log)
        # Callbacks and the log are this process'.
        watched = bool(getattr(self, "_skl_callbacks", [])) or self.verbose
        winner = race.run(race.rungs() if self.race else [], fit_winner=not watched)
        _warn_of_failures(race.scores)
        index = self._choose(race.compared, candidates, race.alive)
        _warn_of_the_largest(index, candidates, race.compared, rows.shape[1])
        found = self._fitted_to_all(entrants[index], X, y) if winner is None else _with_warnings(*winner)
        found = self._with_codes(found, entrants[index].table.to_encode, entrants[index].settings)
        return replace(found, attributes=found.attributes | _report(index, candidates, race))

    @property
    def partial_fit(self) -> NoReturn:
        """Not offered: candidates are compared on whole tables."""
        raise AttributeError("VAETransformerCV has no partial_fit; choose the size first, then use VAETransformer.")

    def _base(self) -> VAETransformer:
        """The estimator that the candidates vary."""
        names = VAETransformer._get_param_names()
        parameters = {name: getattr(self, name) for name in names if name not in ("n_components", "verbose")}
        # Once for all candidates, or each would tell that the device is missing.
        return VAETransformer(**{**parameters, "random_state": 0, "device": str(resolve_device(self.device))})

    def _entrant(
        self, base: VAETransformer, candidate: dict[str, Any], reader: TableReader, table: Labelled, X: Any
    ) -> Candidate:
        """What a candidate is compared by; one with a likelihood of its own reads the table anew."""
        estimator = clone(base).set_params(**clone(candidate, safe=False))
        estimator._validate_params()
        self._refuse_without_density(estimator)
        settings = FitSettings.of(estimator, torch.device(estimator.device))
        if any(name.split("__")[0] == "likelihood" for name in candidate):
            reader, rows = TableReader.learn(reader.name, X, settings.specs["likelihood"], resolved)
            table = table._replace(X=rows)
        return Candidate(settings, reader, table, self.n_draws)

    def _fitted_to_all(self, entrant: Candidate, X: Any, y: Any) -> Fit:
        """A candidate fitted to all rows, under the eyes of this estimator's callbacks."""
        settings, rows = replace(entrant.settings, verbose=self.verbose), entrant.rows(entrant.table)
        with fit_task(self, X, y, settings.max_iter) as task:
            task.result = fit_model(entrant.reader, rows, settings, task.epoch)
        return task.result

    def _candidates(self) -> list[dict[str, Any]]:
        sizes = list(self.n_components) if np.ndim(self.n_components) else [self.n_components]
        for size in sizes:
            if size != "auto" and not Count().is_satisfied_by(size):
                raise ValueError(f"n_components must hold integers of at least 1 or 'auto'; it holds {size!r}.")
        if not sizes:
            raise ValueError("n_components holds no candidate; give at least one number of latents.")
        others = self.param_grid or {}
        if reserved := {"n_components", "n_draws", "keep_codes", "random_state", "device", "verbose"} & set(others):
            raise ValueError(
                f"param_grid holds {sorted(reserved)}, which every candidate shares; set them on the estimator itself."
            )
        return list(ParameterGrid({"n_components": sizes, **others}))

    def _folds(self, rows: Labelled, groups: Any) -> list[Fold]:
        """Training and test rows of every fold."""
        weight = rows.weight
        try:
            folds = [Fold(*fold) for fold in check_cv(self.cv, rows.y).split(rows.X, rows.y, groups)]
        except (TypeError, ValueError) as error:
            raise self._without(rows.y, groups, error) from error
        if not folds:
            raise ValueError(
                "cv gives no folds; pass a number of folds, a splitter, or a list of splits. A generator gives its "
                "splits to one fit only: pass list(...) of it."
            )
        for k, (_, test) in enumerate(folds):
            if weight is not None and not weight[test].any():
                raise ValueError(f"The test rows of fold {k} all have sample_weight 0, so they have no mean score.")
        return folds

    def _without(self, y: Any, groups: Any, error: Exception) -> Exception:
        """The error of a splitter, with what it lacks where that was not given."""
        given = {"y": y, "groups": groups}
        asked = {"y": "Stratified" in type(self.cv).__name__, "groups": "Group" in type(self.cv).__name__}
        lacking = [name for name, value in given.items() if value is None and asked[name]]
        if not lacking:
            return error
        call = ", ".join(f"{name}=..." for name in lacking)
        return ValueError(f"cv={self.cv!r} splits by {' and '.join(lacking)}; call fit(X, {call}).")

    def _refuse_without_density(self, estimator: VAETransformer) -> None:
        if not hasattr(estimator, "score"):
            raise ValueError(
                f"objective={estimator.objective!r} trains no density of X, so candidates have no likelihood to be "
                "compared by; use GridSearchCV(VAETransformer(), ..., scoring=skvae.metrics.reconstruction_error)."
            )

    def _choose(self, scores: np.ndarray, candidates: list[dict[str, Any]], alive: Sequence[int] | None = None) -> int:
        """The candidate to keep, among those that are still `alive`; all by default."""
        means = np.nan_to_num(scores.mean(axis=1), nan=-np.inf)
        left = np.arange(len(means)) if alive is None else np.asarray(alive)
        best = int(left[np.argmax(means[left])])
        if self.selection == "best" or scores.shape[1] < 2:
            return best
        with np.errstate(invalid="ignore"):  # of rows too far out to be scored
            error = np.nan_to_num(scores[best].std(ddof=1) / np.sqrt(scores.shape[1]))
        near = left[means[left] >= means[best] - error]
        return int(min(near, key=lambda i: (_size(candidates[i]["n_components"]), -means[i])))


def _report(best: int, candidates: list[dict[str, Any]], race: Race) -> dict[str, Any]:
    """What cross-validation found, in GridSearchCV's words."""
    scores = race.scores.filled(np.nan)
    table: dict[str, Any] = {}
    for name in ("fit_time", "score_time"):
        begun = np.ma.array(getattr(race, name), mask=race.scores.mask)
        table[f"mean_{name}"], table[f"std_{name}"] = _mean_and_std(begun)
    for name in candidates[0]:
        values = np.empty(len(candidates), dtype=object)
        values[:] = [candidate[name] for candidate in candidates]
        table[f"param_{name}"] = np.ma.MaskedArray(values, mask=False)
    table["params"] = candidates
    table |= {f"split{k}_test_score": column for k, column in enumerate(scores.T)}
    table["mean_test_score"], table["std_test_score"] = means, _ = _mean_and_std(race.scores)
    begun = np.ma.masked_array(race.compared, mask=race.scores.mask)
    table["mean_compared_score"] = compared = np.ma.getdata(begun.mean(axis=1))
    table["rank_test_score"] = _ranks(race.dropped_after, compared)
    table["dropped_after"] = race.dropped_after
    return {
        "cv_results_": table,
        "scores_": scores,
        "n_splits_": scores.shape[1],
        "best_index_": best,
        "best_params_": candidates[best],
        "best_score_": float(means[best]),
    }


def _mean_and_std(values: np.ma.MaskedArray) -> tuple[np.ndarray, np.ndarray]:
    """Over the folds that were begun; nothing spreads about -inf, so that the deviation is NaN there."""
    finite = np.isfinite(values).filled(True)
    # In units of its own, powers of two, a row of the largest numbers has sums and squares that are numbers.
    largest = np.where(finite, np.abs(values).filled(0.0), 0.0).max(axis=1)
    unit = 2.0 ** np.clip(np.frexp(largest)[1], 0, 1000)
    values, finite = np.ma.masked_array(values.data / unit[:, None], values.mask), finite.all(axis=1)
    std = np.ma.getdata(np.ma.where(finite[:, None], values, 0.0).std(axis=1))
    return np.ma.getdata(values.mean(axis=1)) * unit, np.where(finite, std, np.nan) * unit


def _ranks(dropped_after: np.ndarray, means: np.ndarray) -> np.ndarray:
    """1 for the best; who was dropped comes after who went on longer, whatever the scores then were."""
    lasted = np.where(dropped_after > 0, dropped_after, np.inf)
    keys = list(zip(lasted, np.nan_to_num(means, nan=-np.inf), strict=True))
    return np.array([1 + sum(other > key for other in keys) for key in keys], dtype=np.int32)


def _with_warnings(fit: Fit, caught: list[warnings.WarningMessage]) -> Fit:
    """A fit that was made elsewhere, after the warnings that it gave there."""
    for warning in caught:
        warn_user(warning.message, warning.category)
    return fit


def _warn_of_failures(scores: np.ma.MaskedArray) -> None:
    """Say how many fits diverged; raise ValueError where no candidate is left."""
    failed = np.isnan(scores).filled(False)
    if failed.any(axis=1).all():
        raise ValueError(
            "Training diverged for every candidate. Lower learning_rate_init, or clip extreme values of X."
        )
    if failed.any():
        warn_user(
            f"{failed.sum()} of {scores.count()} fits diverged in their first epoch; their scores are NaN.",
            FitFailedWarning,
        )


def _warn_of_the_largest(best: int, candidates: list[dict[str, Any]], scores: np.ndarray, n_features: int) -> None:
    """Say where larger models than the largest one given may be better still."""
    sizes = [_size(candidate["n_components"]) for candidate in candidates]
    if sizes[best] < n_features and still_gains(scores, sizes, best):
        chosen = f"VAETransformerCV chose n_components={sizes[best]}, the largest of its candidates"
        warn_user(f"{chosen}; give it larger ones too.")


def _size(n_components: Any) -> float:
    """ "auto" is no number, and so comes last."""
    return np.inf if n_components == "auto" else n_components
