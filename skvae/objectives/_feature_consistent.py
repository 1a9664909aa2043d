"""Reconstructions compared in the layers of a frozen network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from .._tables.batches import Batch, Table
from ..model import VAE, Dims, Emitted
from ._base import OnePass

__all__ = ["FeatureConsistent"]


class FeatureConsistent(OnePass):
    """Rows compared as a network sees them (Hou et al. 2017): minimise beta KL(q(z|x) || p(z)) + feature error.

    The feature error is E_q[sum_l ||phi_l(x) - phi_l(E[x|z])||^2], where phi_l(x) is what layer l of a network gives
    for a row in the units of X. A network that was trained to tell what is in an image takes a stroke that is moved by
    a pixel for nearly the same, which pixels do not; what is rebuilt then keeps what the network looks at, and is
    further from the row cell by cell. The network is a copy of the one given, is not trained, and stays in evaluation
    mode.

    There is a posterior and `sample`, which returns means, but no p(x): `score` and `score_samples` are absent. In the
    place of a missing cell the network sees the reconstruction, twice. A model with a network of your own can be
    pickled (define it in an importable file), and is outside the skops promise.

    Parameters
    ----------
    network : nn.Module
        From rows (N, D), in the units of X and in float32, to a tensor of N rows. For images it begins with
        `nn.Unflatten(1, (1, height, width))`.
    layers : sequence of str, default=()
        The layers that are compared, by their names in `network.named_modules()`; what each gives is flattened to
        (N, any number), and the squares are summed. Empty: the output of the network.
    beta : float, default=1.0
        Weight of the KL. Features are in units of their own, so look at "kl" and "feature_error" in `history_`: where
        the KL goes to 0, beta is too large.

    See Also
    --------
    skvae.ELBO : Rows compared cell by cell, by a likelihood.

    References
    ----------
    Hou, X., Shen, L., Sun, K. and Qiu, G. (2017). Deep feature consistent variational autoencoder. WACV, 1133-1141.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> import torch
    >>> from skvae import VAETransformer
    >>> from skvae.objectives import FeatureConsistent
    >>> X, y = load_digits(return_X_y=True)
    >>> first = MLPClassifier((32,), early_stopping=True, random_state=0).fit(X, y)
    >>> layer = torch.nn.Linear(64, 32)
    >>> layer.weight.data, layer.bias.data = torch.tensor(first.coefs_[0].T), torch.tensor(first.intercepts_[0])
    >>> network = torch.nn.Sequential(layer, torch.nn.ReLU())
    >>> vae = VAETransformer(5, objective=FeatureConsistent(network), max_iter=5, random_state=0).fit(X)
    >>> vae.sample(2, random_state=0).shape
    (2, 64)
    """

    __module__ = "skvae.objectives"

    offers = frozenset({"posterior", "prior"})
    known = False

    _parameter_constraints: ClassVar[dict] = {
        "network": [nn.Module],
        "layers": ["array-like"],
        "beta": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, network: nn.Module, layers: Sequence[str] = (), *, beta: float = 1.0) -> None:
        self.network = network
        self.layers = layers
        self.beta = beta

    def _validate_params(self) -> None:
        super()._validate_params()
        known = [name for name, _ in self.network.named_modules() if name]
        if unknown := [name for name in self.layers if name not in known]:
            raise ValueError(f"layers must hold names of layers of the network, {known}; it holds {unknown[0]!r}.")

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        return {"network": copy.deepcopy(self.network).requires_grad_(False).eval()}

    def start(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        """Raise ValueError where the network does not take such rows, or nothing can be learnt from what it gives."""
        two = rows.take(torch.zeros(2, dtype=torch.long, device="cpu"))
        outputs = model.params(torch.zeros(2, model.prior.n_components, dtype=torch.float32, device="cpu"), two.x)
        outputs = outputs.detach().requires_grad_()
        rule = f"FeatureConsistent's network must turn {two.n_features} columns into a tensor of as many rows"
        columns = model.likelihood.columns_of_inputs()  # several numbers stand for a cell that is a category
        if not model.likelihood.mean(outputs).requires_grad or len(columns) > len(np.unique(columns)):
            raise ValueError(
                "FeatureConsistent compares means of p(x|z), which categories do not have; give them as one-hot "
                "columns of another likelihood, or use another objective."
            )
        try:
            error = self.feature_error(outputs, two, model)
        except Exception as fault:  # of whatever kind a user's network raises
            raise ValueError(f"{rule}; on two rows it failed: {fault}") from fault
        if not (error.shape == (2,) and error.requires_grad):
            raise ValueError(f"{rule}, with gradients.")

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """beta KL(q(z|x) || p(z)) + sum_l ||phi_l(x) - phi_l(E[x|z])||^2."""
        error, kl = self.feature_error(emitted.outputs, batch, model), model.kl(emitted).sum(-1)
        return {"loss": self.beta * kl + error, "feature_error": error, "kl": kl}

    def feature_error(self, outputs: Tensor, batch: Batch, model: VAE) -> Tensor:
        """||phi(x) - phi(E[x|z])||^2, where the decoder's outputs say what E[x|z] is: (B,)."""
        mean = model.likelihood.mean(outputs)
        x = batch.x if batch.mask is None else torch.where(batch.mask > 0, batch.x, mean.detach())
        seen, rebuilt = (self._features(model, rows) for rows in (x, mean))
        return (seen - rebuilt).square().sum(-1)

    def _features(self, model: VAE, x: Tensor) -> Tensor:
        """What the layers give for rows in model units, side by side: (B, any number)."""
        network, found = model.extras["network"], []

        def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            found.append(output.flatten(1))

        named = dict(network.named_modules())
        hooks = [named[name].register_forward_hook(note) for name in self.layers]
        try:
            output = network(model.units.to_data(x).to(x.dtype))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found or [output.flatten(1)], dim=1)
