"""VAEClassifier: a variational autoencoder where SelfTrainingClassifier would stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from torch import nn

from ._inference.blocks import refuse_far_rows
from ._inference.posterior import posterior_mean
from ._labels import Chunk, Labels
from ._params import Activation, NetworkLike, RandomState
from ._saved import Rule
from ._settings import AUTO_MOST, FitSettings
from ._state import at_once
from ._tables.reader import relative_weights
from .likelihoods import Likelihood
from .networks import Network
from .objectives import Objective
from .priors import PriorSpec
from .transformer import VAETransformer

__all__ = ["VAEClassifier"]


class VAEClassifier(ClassifierMixin, VAETransformer):
    """Variational autoencoder that classifies: for tables in which few rows have a label.

    All rows teach the model what rows look like, labelled ones also which latents belong to which class. By default
    latents of a class follow one Gaussian, learnt with the model, and a row's class is Bayes' rule at its posterior
    mean (see :class:`skvae.objectives.Classified`). y is read as labels and as nothing else. Columns are standardised
    inside, and NaN marks a missing cell. Everything that :class:`VAETransformer` can say of rows it says, too; `score`
    is the accuracy.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of latents. "auto": as many as columns, at most 32.
    unlabeled : int, float, str or None, default=-1
        What stands in y for a row without a label. None and NaN do, whatever is given here: labels that are strings
        come in a list or an array of dtype object, with None, NaN or `unlabeled` among them.
    likelihood : str or Likelihood, default="johnson_su"
        What a row looks like given its latents, as in :class:`VAETransformer`: "auto" for tables of mixed types.
    objective : str or Objective, default="classified"
        What training minimises: an object whose `target` is "label", or its name in `skvae.objectives.OBJECTIVES`.
        "classified": `Classified()`, whose `weight` says how much labels count beside rows. `n_classes` is set from y.
    prior : str or PriorSpec, default="normal"
        What latents of one class look like, but for where they lie and how wide: an object, or its name in
        `skvae.priors.PRIORS`. "normal": one Gaussian. "mixture": several, for classes that are groups themselves.
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
    max_iter : int, default=50
        Epochs at most.
    batch_size : int or "auto", default="auto"
        Rows per step. "auto": a tenth of the training rows, between 32 and 200.
    solver : {"adam", "adagrad", "rmsprop", "sgd"} or callable, default="adam"
        The optimiser ("sgd": Nesterov momentum with a bounded gradient), or a callable that takes a list of parameters
        and returns a `torch.optim.Optimizer`.
    learning_rate_init : float, default=1e-3
        Step size; a callable solver sets its own.
    early_stopping : bool or "auto", default=False
        Hold rows out, stop when their loss no longer falls, and keep the best weights, the start included; labels are
        held out with their rows. "auto": from 20 rows on. False: all epochs are run.
    validation_fraction : float, default=0.1
        Share of the rows held out.
    n_iter_no_change : int or np.inf, default=30
        Epochs without a better held-out loss before training stops.
    n_draws : int, default=64
        Points z per row in `score_samples` and `impute`.
    keep_codes : bool, default=True
        Keep the codes of up to 5000 training rows for `sample`, as in :class:`VAETransformer`.
    random_state : int, RandomState or None, default=None
        Seeds weights, batches and draws; an int gives the same model at every fit.
    verbose : int or bool, default=0
        1 prints some twenty lines about the loss, 2 one per epoch with all that it is made of.
    device : str, default="cpu"
        "cpu", "cuda", "mps" or "auto".

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; the columns of `predict_proba`.
    n_components_ : int
        Number of latents.
    likelihood_ : Likelihood
        The likelihood of every column: with "auto", what was chosen.
    n_features_in_ : int
        Number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had string names.
    n_iter_ : int
        Epochs run.
    best_iter_ : int
        The epoch whose weights are kept; 0 is the start.
    loss_curve_ : list of float
        Training loss of every epoch, in nats per row.
    validation_curve_ : list of float
        Held-out bound before training and after every epoch, in nats per row; empty where no rows are held out. Every
        value is the best epoch's before it and what the rows gain since, the 2 % that gain most and least counting as
        the nearest of the others: one row does not decide.
    history_ : dict of str to list of float
        Every term of the loss, one value per epoch.
    mean_ : ndarray of shape (n_features_in_,)
        The columns' means, in data units.
    scale_ : ndarray of shape (n_features_in_,)
        What the columns are divided by, in data units.
    noise_variance_ : float or ndarray of shape (n_features_in_,)
        Noise variance in data units squared: a number for shared noise, one per column otherwise (with
        noise from the decoder, its mean over the rows), and the largest float where the square is beyond it. Gaussian
        likelihoods only.
    latent_information_ : ndarray of shape (n_components_,)
        Mean KL(q(z_j|x) || p(z_j)) over the training rows, in nats: what each latent tells of a row. Falling; after
        further calls of `partial_fit` the latents keep the order of the first.
    active_components_ : ndarray of bool of shape (n_components_,)
        Latents whose posterior mean varies by more than 0.01 over the rows (Burda et al. 2016). Of a table of one
        column none does where the column has a noise of its own, which explains all of it; `Gaussian(noise="shared")`
        leaves something to the latent.
    module_ : torch.nn.Module
        The fitted model in float64, in training order of the latents.

    See Also
    --------
    VAETransformer : The same model without labels, whose latents any classifier can take.
    sklearn.semi_supervised.LabelSpreading : Labels spread from row to row by distance.
    sklearn.semi_supervised.SelfTrainingClassifier : A classifier that labels the rows it is sure of.

    References
    ----------
    Kingma, D. P. et al. (2014). Semi-supervised learning with deep generative models. arXiv:1406.5298.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> few = np.where(np.arange(len(y)) % 6 == 0, y, -1)  # five rows of six have no label
    >>> model = VAEClassifier(4, random_state=0).fit(X, few)
    >>> model.score(X, y) > 0.9
    True
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {**VAETransformer._parameter_constraints, "unlabeled": [Real, str, None]}

    _leaves: ClassVar[dict[str, Rule | None]] = {
        **VAETransformer._leaves,
        "classes_": Rule(
            "distinct labels, two at least", lambda v, D, J: len(v) > 1 and len(set(v.tolist())) == len(v)
        ),
    }

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
        unlabeled: Any = -1,
        likelihood: str | Likelihood = "johnson_su",
        objective: str | Objective = "classified",
        prior: str | PriorSpec = "normal",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: Activation = "relu",
        encoder: Network | NetworkLike | None = None,
        decoder: Network | NetworkLike | None = None,
        init: str = "linear",
        max_iter: int = 50,
        batch_size: int | str = "auto",
        solver: str | Callable[[list[nn.Parameter]], torch.optim.Optimizer] = "adam",
        learning_rate_init: float = 1e-3,
        early_stopping: bool | str = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 30,
        n_draws: int = 64,
        keep_codes: bool = True,
        random_state: RandomState = None,
        verbose: int = 0,
        device: str = "cpu",
    ) -> None:
        self.n_components = n_components
        self.unlabeled = unlabeled
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
        self.keep_codes = keep_codes
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # type: ignore[override]
        """Fit the model to X, and to the labels there are.

        Ctrl-C ends training after its first epoch: the best weights so far are kept, with a warning. In a search that
        is an error, and ends the search. If anything goes wrong, an earlier or later Ctrl-C included, the estimator
        keeps its previous fitted state and the error propagates. Until the fit has ended, other threads are answered by
        the previous model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; NaN marks a missing cell.
        y : array-like of shape (n_samples,)
            Their labels: strings or numbers; `unlabeled`, None or NaN where a row has none.
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight 2 counts as two rows, labels included. Rows of weight 0 are dropped.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or y breaks a rule, fewer than two classes are labelled, or the first epoch diverges.
        TypeError
            If X is a tensor with gradients or on another device, or holds something that is no number and no category.
        """
        return super().fit(X, Chunk(y), sample_weight)

    def partial_fit(  # type: ignore[override]
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Train for one epoch on X and its labels, continuing where the last call stopped.

        The first call sets the columns' means and scales, the number of latents, the linear start, the classes' shares
        and where their Gaussians begin: give it a chunk that represents the table. Later chunks may hold no labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A chunk of rows; NaN marks a missing cell.
        y : array-like of shape (n_samples,)
            Their labels; `unlabeled`, None or NaN where a row has none.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come. Needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to each other, as in `fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or y breaks a rule, y holds a label that is not among the classes, or the epoch diverges.
        """
        return super().partial_fit(X, Chunk(y, getattr(self, "classes_", None), classes, True), sample_weight)

    @at_once
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of `predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            One column for each of `classes_`.

        Raises
        ------
        ValueError
            If X breaks a rule, or a row lies so far outside the training data that its code is not finite.
        """
        X, model = self._reader().read(X), self._fitted()
        log_proba = model.specs["objective"].log_proba
        found = self._inference().by_blocks(X, lambda vae, rows: log_proba(vae, posterior_mean(vae, rows)))
        refuse_far_rows(found, range(len(X)))
        return found

    @at_once
    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every class, p(c|z) at the posterior mean z.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            One column for each of `classes_`; rows sum to 1.
        """
        return np.exp(self.predict_log_proba(X))

    @at_once
    def decision_function(self, X: Any) -> np.ndarray:
        """How much each class is favoured, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of two classes log p(classes_[1]|z) - log p(classes_[0]|z), above 0 for the second one; of more, the
            logarithms of their probabilities.
        """
        found = self.predict_log_proba(X)
        return found[:, 1] - found[:, 0] if found.shape[1] == 2 else found

    @at_once
    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Members of `classes_`.
        """
        places = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[places]

    def _settings(self, device: torch.device) -> FitSettings:
        return FitSettings.of(self, device, lambda cov: min(cov.n_columns, AUTO_MOST))

    def _understood(self, settings: FitSettings, y: Any, sample_weight: Any) -> tuple[FitSettings, Any]:
        """y as numbers of classes, and an objective of so many."""
        objective = settings.objective
        if objective.target != "label" or not {"n_classes"} <= objective.get_params().keys():
            raise ValueError(f"objective={self.objective!r} does not classify; use 'classified' or Classified(...).")
        labels = Labels.of(y.labels, self.unlabeled)
        classes = y.known
        if classes is None:
            if y.names_classes and y.classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            weighed = None if sample_weight is None else relative_weights(sample_weight, labels.values) > 0
            classes = (
                labels.classes(weighed) if y.classes is None else Labels.of(y.classes, self.unlabeled).classes(None)
            )
        specs = {**settings.specs, "objective": clone(objective).set_params(n_classes=len(classes))}
        return replace(settings, specs=specs, attributes={"classes_": classes}), labels.numbers(classes)

    def _fault(self, state: dict[str, Any]) -> str | None:
        if "classes_" not in state:
            return "classes_ is missing"
        fault = super()._fault(state)
        if fault is None and len(state["classes_"]) != state["_specs"]["objective"].n_classes:
            fault = "classes_ are not as many as its objective knows"
        return fault
