"""VAEImputer: a variational autoencoder where IterativeImputer would stand."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from sklearn.base import OneToOneFeatureMixin, TransformerMixin, _fit_context, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ._base import takes_gaps
from ._params import RandomState
from ._saved import Rule, Saved, fault_of_values
from ._state import DETAILS, MODEL, become
from .transformer import VAETransformer

__all__ = ["VAEImputer"]


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, Saved):
    """Fill missing cells with a :class:`VAETransformer`, as a step of a pipeline.

    `transform` is the model's `impute`: the conditional mean of a missing cell given the row's other cells, the most
    likely category where a column holds categories. Cells must be missing at random, given the cells that are present:
    where a value is missing because of what it is (high incomes that are not told), no imputer can know.

    Parameters
    ----------
    estimator : VAETransformer or None, default=None
        The model. None: `VAETransformer(likelihood="auto")`.
    sample_posterior : bool, default=False
        Draw missing cells from p(x_missing | x_present) in place of their mean; `VAETransformer.impute` gives several
        draws at once.
    random_state : int, RandomState or None, default=None
        Of the draws, and of an estimator that has none of its own.

    Attributes
    ----------
    estimator_ : VAETransformer
        The fitted model.
    n_features_in_ : int
        Number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had string names.

    See Also
    --------
    sklearn.impute.IterativeImputer : One regression per column.
    sklearn.impute.KNNImputer : The mean of similar rows.

    References
    ----------
    Mattei, P.-A. and Frellsen, J. (2019). MIWAE: deep generative modelling and imputation of incomplete data sets.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEImputer
    >>> X = load_wine().data
    >>> X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    >>> bool(np.isnan(VAEImputer(random_state=0).fit_transform(X)).any())
    False
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "estimator": [None, VAETransformer],
        "sample_posterior": ["boolean"],
        "random_state": ["random_state"],
    }

    _leaves: ClassVar[dict[str, Rule | None]] = {
        "estimator_": Rule(
            "a fitted VAETransformer of as many columns",
            lambda v, D, J: isinstance(v, VAETransformer) and v.__sklearn_is_fitted__() and v.n_features_in_ == D,
        ),
        "n_features_in_": MODEL["n_features_in_"],
        "feature_names_in_": DETAILS["feature_names_in_"],
    }

    def __init__(
        self,
        estimator: VAETransformer | None = None,
        *,
        sample_posterior: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.sample_posterior = sample_posterior
        self.random_state = random_state

    # The model decides itself whether it has been fitted before; its first partial_fit is not the imputer's.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to X, gaps and all.

        If anything goes wrong, the imputer keeps its previous fitted state; until the fit has ended, other threads are
        answered by that.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; NaN marks a missing cell.
        y : object, default=None
            Ignored, unless the estimator's objective has a `target`.
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight 2 counts as two rows.

        Returns
        -------
        self : object
            The fitted imputer.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, or the first epoch diverges.
        """
        model = clone(self.estimator) if self.estimator is not None else VAETransformer(likelihood="auto")
        if model.random_state is None:
            model.set_params(random_state=self.random_state)
        try:
            takes_gaps(model)
        except AttributeError as error:
            raise ValueError(f"{error} Use another decoder.") from error
        model.fit(X, y, sample_weight=sample_weight)
        columns = {name: vars(model)[name] for name in ("n_features_in_", "feature_names_in_") if name in vars(model)}
        become(self, {"estimator_": model, **columns})
        return self

    def transform(self, X: Any) -> Any:
        """X with its missing cells filled.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        X_filled : ndarray or DataFrame of shape (n_samples, n_features)
            Present cells are untouched. A DataFrame where `fit` was given one.

        Raises
        ------
        ValueError
            If X breaks a rule, or a row with gaps lies so far outside the training data that its code is not finite.
        """
        check_is_fitted(self, "estimator_")
        self._validate_params()  # they may have changed since fit
        if self.sample_posterior:
            return self.estimator_.impute(X, n_draws=1, random_state=self.random_state)[0]
        return self.estimator_.impute(X)

    def _fault(self, state: dict[str, Any]) -> str | None:
        for name in ("estimator_", "n_features_in_"):
            if name not in state:
                return f"{name} is missing"
        return fault_of_values(state, self._leaves, state["n_features_in_"], 0)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
