"""Four extensions, written as a user would write them: from public names only, and without a change inside skvae.

They prove the contracts of objectives and networks: the ELBO again, a loss with second derivatives, three players with
a module of their own, and a decoder that reads the row it predicts.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from skvae import MLP
from skvae.networks import AutoregressiveDecoder, Network
from skvae.objectives import Objective

__all__ = ["VAEGAN", "Contractive", "PixelCNN", "PlainELBO"]


class PlainELBO(Objective):
    """E_q[log p(x|z)] - KL(q(z|x) || p(z)), one draw, from the model's public parts."""

    density = True

    def __call__(self, model, batch, rng, epoch):
        mu, log_var = model.encode(batch.x, batch.mask)
        eps = torch.randn(mu.shape, generator=rng, dtype=mu.dtype, device=mu.device)
        z = mu + torch.exp(0.5 * log_var) * eps
        kl = model.prior.kl(mu, log_var).sum(-1)
        return {"loss": kl - model.log_prob(z, batch.x, batch.mask).sum(-1), "kl": kl}

    def monitor(self, model, batch, rng):
        return -self(model, batch, rng, 0)["loss"]


def squared_error(reconstruction, batch):
    """Sum over a row's present cells, in the model's units: (N,)."""
    error = (reconstruction - batch.x).square()
    return (error if batch.mask is None else error * batch.mask).sum(-1)


class Contractive(Objective):
    """Squared error of the mean code's reconstruction + weight * ||dmu/dx||_F^2 (Rifai et al. 2011)."""

    def __init__(self, weight=0.1):
        self.weight = weight

    def __call__(self, model, batch, rng, epoch):
        x = batch.x.detach().requires_grad_()
        mu, _ = model.encode(x, batch.mask)
        columns = [torch.autograd.grad(mu[:, j].sum(), x, create_graph=True)[0] for j in range(mu.shape[1])]
        contraction = torch.stack(columns).square().sum(dim=(0, 2))
        error = squared_error(model.mean(mu), batch)
        return {"loss": error + self.weight * contraction, "error": error, "contraction": contraction}

    def monitor(self, model, batch, rng):
        with torch.enable_grad():
            return -self(model, batch, rng, 0)["loss"].detach()


class VAEGAN(Objective):
    """A discriminator's hidden layer replaces the pixels in the reconstruction (Larsen et al. 2016, algorithm 1).

    Encoder: KL + feature error. Decoder: gamma * feature error + fool the discriminator. Discriminator: tell rows from
    reconstructions and from draws of the prior.
    """

    def __init__(self, gamma=1.0, width=32):
        self.gamma = gamma
        self.width = width

    def modules(self, dims):
        features = nn.Sequential(nn.Linear(dims.n_features, self.width), nn.ReLU())
        return {"features": features, "verdict": nn.Linear(self.width, 1)}

    def __call__(self, model, batch, rng, epoch):
        features, verdict = model.extras["features"], model.extras["verdict"]
        mu, log_var = model.encode(batch.x, batch.mask)
        z = mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape, generator=rng, dtype=mu.dtype, device=mu.device)
        rebuilt = model.mean(z)
        drawn = model.mean(model.prior.sample(len(batch), rng, mu.dtype))
        seen = features(batch.x)
        error = (seen - features(rebuilt)).square().sum(-1)
        fakes = verdict(features(rebuilt)), verdict(features(drawn))
        fooled = sum(F.softplus(-fake) for fake in fakes).squeeze(-1)
        caught = sum(F.softplus(fake) for fake in fakes).squeeze(-1)
        kl = model.prior.kl(mu, log_var).sum(-1)
        return {
            "loss": kl + error,
            "decoder": self.gamma * error + fooled,
            "discriminator": F.softplus(-verdict(seen)).squeeze(-1) + caught,
        }

    def players(self, model):
        return [
            (list(model.encoder.parameters()), "loss"),
            (list(model.decoder.parameters()), "decoder"),
            (list(model.extras.parameters()), "discriminator"),
        ]


class MaskedConv(nn.Conv2d):
    """A convolution that sees the pixels above and to the left; the pixel itself only with `centre`."""

    def __init__(self, n_in, n_out, size, centre):
        super().__init__(n_in, n_out, size, padding=size // 2)
        seen = torch.ones(size, size)
        seen[size // 2, size // 2 + int(centre) :] = 0
        seen[size // 2 + 1 :] = 0
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, image):
        return F.conv2d(image, self.weight * self.seen, self.bias, padding=self.padding)


class PixelDecoder(AutoregressiveDecoder):
    """Masked convolutions over the image, with a map of z added at every pixel and layer."""

    def __init__(self, n_in, image_shape, channels, n_layers):
        super().__init__()
        self.image_shape, self.channels = image_shape, channels
        sizes = [1] + [channels] * n_layers
        self.layers = nn.ModuleList(
            MaskedConv(a, b, 5 if i == 0 else 3, centre=i > 0) for i, (a, b) in enumerate(pairwise(sizes))
        )
        n_pixels = image_shape[0] * image_shape[1]
        self.conditions = nn.ModuleList(nn.Linear(n_in, channels * n_pixels) for _ in range(n_layers))
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, z, x):
        image = x.reshape(-1, 1, *self.image_shape)
        for i, (layer, condition) in enumerate(zip(self.layers, self.conditions, strict=True)):
            step = F.relu(layer(image) + condition(z).reshape(-1, self.channels, *self.image_shape))
            image = step if i == 0 else image + step
        return self.out(image).flatten(1)


class PixelCNN(Network):
    """p(x|z) pixel by pixel (van den Oord et al. 2016), one output a pixel; a perceptron encodes."""

    def __init__(self, image_shape=(8, 8), channels=8, n_layers=2):
        self.image_shape = image_shape
        self.channels = channels
        self.n_layers = n_layers

    def build_encoder(self, n_in, n_out):
        return MLP((64,)).build_encoder(n_in, n_out)

    def build_decoder(self, n_in, n_out):
        if n_out != self.image_shape[0] * self.image_shape[1]:
            raise ValueError(f"image_shape={self.image_shape} holds no {n_out} outputs.")
        return PixelDecoder(n_in, self.image_shape, self.channels, self.n_layers)
