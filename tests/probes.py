"""Eight extensions, written as a user would write them: from public names only, and without a change inside skvae.

They prove the contracts of objectives, priors and networks: the ELBO again, a loss with second derivatives, three
players with a module of their own, a decoder that reads the row it predicts, a code without a spread, a loss of hidden
activations, a critic that takes turns with the autoencoder, and a learnt prior.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from skvae import MLP
from skvae.networks import AutoregressiveDecoder, Network
from skvae.objectives import Objective, OnePass, Turn
from skvae.priors import Prior, PriorSpec

__all__ = ["VAEGAN", "Adversarial", "Autoencoder", "Contractive", "Groups", "PixelCNN", "PlainELBO", "Sparse"]


class PlainELBO(Objective):
    """E_q[log p(x|z)] - KL(q(z|x) || p(z)), one draw, from the model's public parts."""

    offers = frozenset({"posterior", "prior", "density"})

    def __call__(self, model, batch, rng, epoch):
        mu, log_var = model.encode(batch.x, batch.mask)
        eps = torch.randn(mu.shape, generator=rng, dtype=mu.dtype, device=mu.device)
        z = mu + torch.exp(0.5 * log_var) * eps
        kl = model.prior.kl(mu, log_var).sum(-1)
        return {"loss": kl - model.log_prob(z, batch.x, batch.mask).sum(-1), "kl": kl}

    def monitor(self, model, batch, rng):
        return -self(model, batch, rng, 0)["loss"]


class Autoencoder(OnePass):
    """||x - g(f(x))||^2."""

    def terms(self, emitted, batch, model, rng, epoch):
        return {"loss": model.squared_error(emitted.outputs, batch)}


class Sparse(OnePass):
    """||x - g(f(x))||^2 + weight * sum of the encoder's absolute activations."""

    reads_hidden = True

    def __init__(self, weight=1e-2):
        self.weight = weight

    def terms(self, emitted, batch, model, rng, epoch):
        error = model.squared_error(emitted.outputs, batch)
        activity = torch.cat(list(emitted.hidden), dim=-1).abs().sum(-1)
        return {"loss": error + self.weight * activity, "error": error, "activity": activity}


class Contractive(Objective):
    """||x - g(f(x))||^2 + weight * ||df/dx||_F^2 (Rifai et al. 2011)."""

    def __init__(self, weight=0.1):
        self.weight = weight

    def __call__(self, model, batch, rng, epoch):
        x = batch.x.detach().requires_grad_()
        z, _ = model.encode(x, batch.mask)
        columns = [torch.autograd.grad(z_j.sum(), x, create_graph=True)[0] for z_j in z.unbind(1)]
        contraction = torch.stack(columns).square().sum(dim=(0, 2))
        error = model.squared_error(model.params(z), batch)
        return {"loss": error + self.weight * contraction, "error": error, "contraction": contraction}

    def monitor(self, model, batch, rng):
        with torch.enable_grad():
            return -self(model, batch, rng, 0)["loss"].detach()


def real(logit):
    """-log sigmoid: what a critic loses on what it should call real."""
    return F.softplus(-logit).squeeze(-1)


def fake(logit):
    return F.softplus(logit).squeeze(-1)


class Adversarial(Objective):
    """An adversarial autoencoder (Makhzani et al. 2015), in turns.

    Autoencoder: ||x - g(f(x))||^2 + weight * (fool the critic). Critic: tell draws of p(z) from codes.
    """

    offers = frozenset({"prior"})

    def __init__(self, weight=10.0, width=16):
        self.weight = weight
        self.width = width

    def modules(self, dims):
        return {"critic": nn.Sequential(nn.Linear(dims.n_components, self.width), nn.ReLU(), nn.Linear(self.width, 1))}

    def __call__(self, model, batch, rng, epoch):
        z, _ = model.encode(batch.x, batch.mask)
        error, fooled = model.squared_error(model.params(z), batch), real(model.extras["critic"](z))
        return {"loss": error + self.weight * fooled, "error": error, "fooled": fooled}

    def critic(self, model, batch, rng, epoch):
        with torch.no_grad():
            z, _ = model.encode(batch.x, batch.mask)
        critic, drawn = model.extras["critic"], model.prior.sample(len(batch), rng, z.dtype)
        return {"critic": fake(critic(z)) + real(critic(drawn))}

    def players(self, model):
        networks = [*model.encoder.parameters(), *model.decoder.parameters()]
        return [Turn(networks, self), Turn(list(model.extras.parameters()), self.critic, "critic")]

    def monitor(self, model, batch, rng):
        """A neutral referee: the error, and how far the codes' moments are from N(0, I)'s."""
        z, _ = model.encode(batch.x, batch.mask)
        apart = z.mean(0).square().sum() + (z.var(0) - 1).square().sum()
        return -model.squared_error(model.params(z), batch) - self.weight * apart


class VAEGAN(Objective):
    """A discriminator's hidden layer replaces the pixels in the reconstruction (Larsen et al. 2016, algorithm 1).

    Encoder: KL + feature error. Decoder: gamma * feature error + fool the discriminator. Discriminator: tell rows from
    reconstructions and from draws of the prior.
    """

    offers = frozenset({"posterior", "prior"})

    def __init__(self, gamma=1.0, width=32):
        self.gamma = gamma
        self.width = width

    def modules(self, dims):
        features = nn.Sequential(nn.Linear(dims.n_features, self.width), nn.ReLU())
        return {"features": features, "verdict": nn.Linear(self.width, 1)}

    def __call__(self, model, batch, rng, epoch):
        features, emitted = model.extras["features"], model.emit(batch, batch, rng)
        error = (features(batch.x) - features(model.likelihood.mean(emitted.outputs))).square().sum(-1)
        return {"loss": model.kl(emitted).sum(-1) + error}

    def fakes(self, model, batch, rng):
        """The discriminator's features of reconstructions, and of rows that the prior draws."""
        rebuilt = model.emit(batch, batch, rng).outputs
        drawn = model.params(model.prior.sample(len(batch), rng, batch.x.dtype))
        return [model.extras["features"](model.likelihood.mean(outputs)) for outputs in (rebuilt, drawn)]

    def decoder(self, model, batch, rng, epoch):
        verdict, (rebuilt, drawn) = model.extras["verdict"], self.fakes(model, batch, rng)
        error = (model.extras["features"](batch.x) - rebuilt).square().sum(-1)
        return {"decoder": self.gamma * error + real(verdict(rebuilt)) + real(verdict(drawn))}

    def discriminator(self, model, batch, rng, epoch):
        verdict, (rebuilt, drawn) = model.extras["verdict"], self.fakes(model, batch, rng)
        caught = fake(verdict(rebuilt)) + fake(verdict(drawn))
        return {"discriminator": real(verdict(model.extras["features"](batch.x))) + caught}

    def players(self, model):
        return [
            Turn(list(model.encoder.parameters()), self),
            Turn(list(model.decoder.parameters()), self.decoder, "decoder"),
            Turn(list(model.extras.parameters()), self.discriminator, "discriminator"),
        ]


class GroupsPrior(Prior):
    """p(z) = 1/K sum_k N(z; mu_k, I)."""

    def __init__(self, n_components, n_groups):
        super().__init__(n_components)
        self.mean = nn.Parameter(torch.randn(n_groups, n_components))

    def log_prob(self, z):
        squares = (z[..., None, :] - self.mean).square().sum(-1)
        log_terms = -0.5 * (squares + self.n_components * torch.log(torch.tensor(2 * torch.pi)))
        return torch.logsumexp(log_terms, dim=-1) - torch.log(torch.tensor(float(len(self.mean))))

    def sample(self, n_samples, rng, dtype=torch.float32):
        group = torch.randint(len(self.mean), (n_samples,), generator=rng, device=rng.device)
        eps = torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)
        return (self.mean[group] + eps).to(dtype)


class Groups(PriorSpec):
    """A learnt mixture of unit Gaussians, for the ELBO."""

    def __init__(self, n_groups=3):
        self.n_groups = n_groups

    def build(self, n_components, density):
        return GroupsPrior(n_components, self.n_groups)


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
