"""VAETransformer: a variational autoencoder where PCA would stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from ._base import offers
from ._generate import DrawsRows
from ._inference.blocks import refuse_far_rows
from ._inference.posterior import mean_and_std, posterior_mean
from ._params import Activation, NetworkLike, RandomState
from ._state import at_once
from ._tables.batches import Batch
from ._tables.moments import Array, at_most
from .likelihoods import Likelihood
from .model import VAE
from .networks import Network
from .objectives import Objective
from .priors import PriorSpec

__all__ = ["VAETransformer"]


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DrawsRows):
    """Variational autoencoder: nonlinear dimensionality reduction with a likelihood.

    x is a row, z its `n_components` latents. An encoder gives q(z|x) = N(mu(x), diag sigma^2(x)), a decoder p(x|z), and
    training raises a lower bound on log p(x) (Kingma & Welling 2013, eq. 10). Both networks are a linear map plus a
    multilayer perceptron, and training starts at the best linear model: factor analysis for the default likelihood,
    probabilistic PCA for `Gaussian(noise="shared")`. Columns are standardised inside, likelihoods are in nats and
    in the units of X, and NaN marks a missing cell.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of latents. "auto": as many as the principal components that hold 90 % of the variance of the scaled
        columns, at most 32.
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
        Keep the codes of up to 5000 training rows, which `sample` draws around (8 bytes a latent and row), and after
        `partial_fit` such rows themselves, since their codes change with every chunk; beside them the rows' cells of
        columns that the model is given. A code is nearly its row: with False nothing of single rows is kept, and
        `sample` needs `prior="model"`, or `given`.
    random_state : int, RandomState or None, default=None
        Seeds weights, batches and draws; an int gives the same model at every fit.
    verbose : int or bool, default=0
        1 prints some twenty lines about the loss, 2 one per epoch with all that it is made of.
    device : str, default="cpu"
        "cpu", "cuda", "mps" or "auto".

    Attributes
    ----------
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
    sklearn.decomposition.PCA : The linear model with shared noise.
    sklearn.decomposition.FactorAnalysis : The linear model with one noise variance per column.

    References
    ----------
    Kingma, D. P. and Welling, M. (2013). Auto-Encoding Variational Bayes. arXiv:1312.6114.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> X = load_wine().data
    >>> vae = VAETransformer(n_components=2, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 2)
    >>> vae.inverse_transform(vae.transform(X)).shape
    (178, 13)
    >>> vae.sample(5, random_state=0).shape
    (5, 13)
    >>> vae.score(X) > -21  # nats per row, in the units of X
    True
    """

    __module__ = "skvae"

    _parameter_constraints = DrawsRows._parameter_constraints

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
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
        self.n_components = n_components
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

    def transform(self, X: Any) -> Any:
        """Posterior mean of the latents, most informative first; codes under an objective without a posterior.

        The encoder's; for a row with gaps the most likely latents given its other cells, found with the decoder. Under
        an objective without a density the encoder sees column means in the gaps.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components_)
            One column per latent.

        Raises
        ------
        ValueError
            If X breaks a rule, or a row lies so far outside the training data that its code is not finite.
        """
        return self._encoded(self._reader().read(X), posterior_mean)

    @available_if(offers("posterior"))
    @at_once
    def posterior(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of q(z|x), most informative latent first.

        Absent where the objective offers no posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_components_)
            As `transform` returns it.
        std : ndarray of shape (n_samples, n_components_)
            How uncertain each latent is.

        Raises
        ------
        ValueError
            If X breaks a rule, or a row lies so far outside the training data that its code is not finite.
        """
        codes = self._encoded(self._reader().read(X), mean_and_std)
        return codes[..., 0], codes[..., 1]

    @at_once
    def inverse_transform(self, X: Any, *, given: Any = None) -> Any:
        """Mean of p(x|z), in data units; the most likely one where a column holds categories.

        A model that is given columns (:class:`skvae.Given`) decodes latents for their values: codes of real rows and
        another batch make these rows as if of that batch.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components_)
            Latents, as `transform` returns them.
        given : dict, Series, DataFrame or array-like of shape (n_samples, n_features), default=None
            The columns that the model is given, and only for such a model: one row for all latents, as a dict or a
            Series by the columns' names, or a row for each; other columns are not read.

        Returns
        -------
        X_original : ndarray or DataFrame of shape (n_samples, n_features)
            A DataFrame where `fit` was given one.

        Raises
        ------
        ValueError
            If X does not hold `n_components_` finite numbers per row, or `given` lacks a column that the model is
            given, has another number of rows, or is there where the model is given none.
        """
        model = self._fitted()
        Z = check_array(X, dtype=[np.float64, np.float32])
        if Z.shape[1] != model.n_components:
            raise ValueError(
                f"X has {Z.shape[1]} columns, but inverse_transform takes this model's {model.n_components} latents."
            )
        return self._means(Z, X, self._given_rows(given, len(Z)))

    @at_once
    def reconstruct(self, X: Any) -> Any:
        """Every row as the model sees it: `inverse_transform(transform(X))`, with its own given columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        X_reconstructed : ndarray or DataFrame of shape (n_samples, n_features)
            In data units, without gaps. A DataFrame where `fit` was given one.

        Raises
        ------
        ValueError
            If X breaks a rule, or a row lies so far outside the training data that its code is not finite.
        """
        rows = self._reader().read(X)
        return self._means(self._encoded(rows, posterior_mean), X, rows)

    @available_if(offers("density"))
    @at_once
    def score_samples(self, X: Any) -> np.ndarray:
        """Log-likelihood of every row, in nats and in the units of X: of the density whose p(z) is the model's `prior`.

        That is what `sample(prior="model")` draws from; the codes that `sample` draws around by default have no part in
        it. The logarithm of the mean importance weight p(x, z) / q(z|x) over `n_draws` points: with one or two latents
        Gauss-Hermite quadrature around q(z|x), with more quasi-random draws, where it is a lower bound that tightens
        with `n_draws` (Burda et al. 2016, eq. 8). The points are fixed by the fit and shared by all rows, so a row's
        score depends on nothing else. With missing cells it is the likelihood of the present ones. Absent where the
        objective offers no density.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            In float64; -inf for a row too far out to be scored.

        Raises
        ------
        ValueError
            If X breaks a rule.
        """
        X = self._reader().read(X)
        return self._inference().log_likelihood(X)

    @available_if(offers("density"))
    @at_once
    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows, in nats: the number to compare with `PCA.score` and to search over.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        y : object, default=None
            Ignored.

        Returns
        -------
        score : float
            In nats per row and in the units of X.

        Raises
        ------
        ValueError
            If X breaks a rule.
        """
        return float(np.mean(self.score_samples(X)))

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _encoded(self, X: Array, function: Callable[[VAE, Batch], Tensor]) -> np.ndarray:
        """`function`'s codes (N, J, ...) of the rows of X, most informative latent first, in X's precision."""
        inference = self._inference()
        order = torch.tensor(self._fitted().order, device=inference.device)
        codes = inference.by_blocks(X, lambda model, rows: function(model, rows).index_select(1, order), dtype=X.dtype)
        refuse_far_rows(codes, range(len(X)))
        return codes

    def _means(self, Z: Array, like: Any, rows: Array | None) -> Any:
        """Mean of p(x|z) of latents in public order, and what is given of rows, as the kind of table that fit saw."""
        model = self._fitted()
        found = self._inference().decoded(Z[:, np.argsort(model.order)], lambda model, z, x: model.mean(z, x), rows)
        return model.schema.decoded(at_most(found, Z.dtype), like)


# Around what scikit-learn adds for `set_output`, too: the columns' names are those of the model that answers.
VAETransformer.transform = at_once(VAETransformer.transform)  # type: ignore[method-assign]
