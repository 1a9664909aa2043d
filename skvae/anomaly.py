"""VAEAnomalyDetector: a variational autoencoder where IsolationForest would stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from sklearn.base import OutlierMixin
from sklearn.utils._param_validation import StrOptions
from torch import nn

from ._base import BaseVAE
from ._chunk import continue_fit
from ._codes import joined, known_rows
from ._fit import Fit, Task, fit_model
from ._hints import Names, SeveralNames
from ._inference.criteria import CRITERIA, Criteria, refuse_criterion
from ._normality import ROBUST_SUPPORT, as_many_as_columns, learn, rows_behind, supported
from ._params import Activation, NetworkLike, RandomState, Share
from ._reasons import GivesReasons
from ._reservoir import Reservoir
from ._reservoir import fault as fault_of_reservoir
from ._saved import Rule
from ._settings import FitSettings
from ._tables.reader import TableReader, TrainingRows
from ._verdicts import SHARE
from .likelihoods import Likelihood
from .networks import Network
from .objectives import Objective
from .priors import PriorSpec

__all__ = ["VAEAnomalyDetector"]


class VAEAnomalyDetector(OutlierMixin, GivesReasons):
    """Variational autoencoder for anomaly detection.

    The model learns what normal rows look like; a row it finds unlikely is an anomaly. By default a row is judged by
    the evidence lower bound with the training rows' aggregated posterior as the prior, which says how well the decoder
    explains the row and how close its code lies to the codes of the training rows, and by two views of the latter: that
    posterior alone, and the tenth nearest code. A training row, and every copy of it, is
    judged without its own code, unless more than a twentieth of the rows are like it. Columns are standardised inside,
    so units do not matter, and NaN marks a missing cell.

    The defaults differ from :class:`VAETransformer`'s where a benchmark over 25 tables said so: as many latents as
    columns (an anomaly often shows in directions of little variance, which a bottleneck throws away), heavy tails with
    one noise variance (one noise per column would weigh each by how well it is predicted), a little input noise
    (it gives every known row a neighbourhood), fewer epochs and less patience.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of latents. "auto": as many as columns, at most 64.
    criterion : str, callable or list of str, default=("aggregated", "latent", "neighbour")
        What makes a row normal; higher scores are more normal. The codes of up to 5000 training rows are kept, whatever
        the criterion: with as many latents as columns they amount to the rows themselves. Several give one score: their
        mean, each divided by its spread among the training rows (between quartiles) and multiplied by the first one's.

        - "aggregated": log p(x|z) + log q_agg(z) - log q(z|x) at the posterior mean z, where q_agg is the mean of the
          posteriors of the training rows (Hoffman & Johnson 2016).
        - "neighbour": the same with the part of the tenth nearest code in the place of all of q_agg(z).
        - "latent": log q_agg(z) alone.
        - "elbo": the evidence lower bound, whose prior is N(0, I).
        - "log_likelihood": the importance-weighted likelihood, as `VAETransformer.score_samples`.
        - "reconstruction": minus the squared error of the reconstruction, columns standardised.
        - "reconstruction_data": the same in data units: large columns count most.
        - "reconstruction_probability": the mean of log p(x|z) over q(z|x) (An & Cho 2015).
        - a callable as in `skvae.criteria`.
    contamination : float or "auto", default="auto"
        The share of training rows to call anomalies: sets the threshold `offset_`, and says that the table holds
        anomalies (see `support_fraction`). "auto": 1 %, from at most 2000 of the rows. See also `calibrate`, for a
        false alarm rate with a guarantee.
    support_fraction : float or None, default=None
        The share of training rows to train on, the most normal ones: for tables that hold anomalies. They are found as
        in `sklearn.covariance.MinCovDet`, by fitting the linear model to the rows that it finds most likely, three
        times. None: 0.7 if `contamination` is a number, which says that there are anomalies, and 1 if it is "auto".
    likelihood : str or Likelihood, default="johnson_su"
        What a row looks like given its latents, as in :class:`VAETransformer`: "auto" for tables of mixed types.
    objective : str or Objective, default="input_noise"
        What training minimises: an object, or its name in `skvae.objectives.OBJECTIVES`. "input_noise":
        `ELBO(input_noise=0.05)`.
    prior : str or PriorSpec, default="normal"
        The prior p(z), what latents look like before any data is seen: an object, or its name in `skvae.priors.PRIORS`.
        "normal": N(0, I). "mixture" (:class:`skvae.priors.Mixture`) and "vamp" are learnt with the model.
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The encoder's hidden layers; the decoder mirrors them. Empty: a linear model.
    activation : str or callable, default="relu"
        "elu", "gelu", "identity", "logistic", "relu", "sigmoid", "silu", "softplus", "tanh", or a callable without
        arguments that returns an `nn.Module`.
    encoder, decoder : Network, nn.Module, callable or None, default=None
        Networks in place of the perceptrons, as in :class:`VAETransformer`.
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
    early_stopping : bool or "auto", default="auto"
        Hold rows out, stop when their bound no longer rises, and keep the best weights, the start included. "auto":
        from 20 rows on; with fewer the linear start is kept, where there is one.
    validation_fraction : float, default=0.1
        Share of the rows held out.
    n_iter_no_change : int or np.inf, default=3
        Epochs without a better held-out bound before training stops.
    n_draws : int, default=64
        Points z per row for the criteria that average over q(z|x).
    random_state : int, RandomState or None, default=None
        Seeds weights, batches and draws; an int gives the same model at every fit.
    verbose : int or bool, default=0
        1 prints some twenty lines about the loss, 2 one per epoch with all that it is made of.
    device : str, default="cpu"
        "cpu", "cuda", "mps" or "auto".

    Attributes
    ----------
    criterion_weights_ : ndarray of shape (n_criteria,)
        By what each criterion's score is multiplied before all are added; 1 where there is one criterion.
    offset_ : float
        The threshold: rows of a lower score are anomalies. `decision_function` is the score less the offset.
    support_ : ndarray of bool of shape (n_samples,)
        The rows that were trained on; rows of weight 0 are not counted.
    training_scores_ : ndarray of shape (n_scored,)
        Scores of the training rows (of 2000 random ones with contamination="auto"), each without its own code.
    calibration_scores_ : ndarray of shape (n_rows,)
        Sorted scores of the rows given to `calibrate`, or kept by `partial_calibrate`; absent before.
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
        Noise variance in data units squared, as in :class:`VAETransformer`. Gaussian likelihoods only.
    latent_information_ : ndarray of shape (n_components_,)
        Mean KL(q(z_j|x) || p(z_j)) over the rows trained on, in nats, falling.
    active_components_ : ndarray of bool of shape (n_components_,)
        Latents whose posterior mean varies by more than 0.01 over the rows.
    module_ : torch.nn.Module
        The fitted model in float64, in training order of the latents.

    See Also
    --------
    VAETransformer : The same model, for scores of whole tables and for latents.
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
        "criterion": [Names(set(CRITERIA)), callable, SeveralNames(set(CRITERIA))],
        "contamination": [StrOptions({"auto"}), SHARE],
        "support_fraction": [None, Share(1)],
    }

    _leaves: ClassVar[dict[str, Rule | None]] = {
        **GivesReasons._leaves,
        "_reservoir": None,
        "support_": Rule("true or false for each row", lambda v, D, J: v.dtype == bool and v.ndim == 1),
    }

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
        criterion: Criteria = ("aggregated", "latent", "neighbour"),
        contamination: float | str = "auto",
        support_fraction: float | None = None,
        likelihood: str | Likelihood = "johnson_su",
        objective: str | Objective = "input_noise",
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
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 3,
        n_draws: int = 64,
        random_state: RandomState = None,
        verbose: int = 0,
        device: str = "cpu",
    ) -> None:
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

    def _fault(self, state: dict[str, Any]) -> str | None:
        return super()._fault(state) or fault_of_reservoir(state.get("_reservoir"), state.get("n_features_in_", 0))

    def _settings(self, device: torch.device) -> FitSettings:
        settings = FitSettings.of(self, device, as_many_as_columns)
        refuse_criterion(self.criterion, settings.objective)
        return settings

    def _learn(self, reader: TableReader, rows: TrainingRows, settings: FitSettings, epoch: Task) -> Fit:
        share = self.support_fraction
        if share is None:
            share = 1.0 if self.contamination == "auto" else ROBUST_SUPPORT
        used, kept, whole_std = supported(reader, rows, settings, share)
        fit = fit_model(reader, used, settings, epoch, whole_std)
        return self._with_normality(fit, settings, rows, used, support_=kept)

    def _learn_chunk(self, reader: TableReader, rows: TrainingRows, settings: FitSettings) -> Fit:
        known = None
        if self.__sklearn_is_fitted__():
            known = known_rows(getattr(self, "_reservoir", None), rows_behind(self._codes), self._inference())
        fit = continue_fit(reader, rows, settings, self._earlier())
        sample = joined(known, Reservoir.of(rows.X, rows.weight, fit.model.seed))
        fit = self._with_normality(fit, settings, sample.table, sample.table, _reservoir=sample.state)
        return self._calibrated_anew(fit, settings)

    def _with_normality(
        self, fit: Fit, settings: FitSettings, table: TrainingRows, used: TrainingRows, **more: Any
    ) -> Fit:
        """A fit to the used rows of a table, with what is normal to its model, and more attributes."""
        inference = fit.model.inference(settings.device, self.n_draws)
        criterion = (
            self.criterion if isinstance(self.criterion, str) or callable(self.criterion) else tuple(self.criterion)
        )
        normality = learn(inference, criterion, self.contamination, table, used)
        return replace(fit, attributes=fit.attributes | normality.attributes | more)
