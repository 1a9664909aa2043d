"""The contracts of objectives, priors and networks, proved by extensions written outside skvae (`probes.py`)."""

from __future__ import annotations

import pickle
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import scale_of, seeded
from probes import VAEGAN, Adversarial, Autoencoder, Contractive, Groups, PixelCNN, PlainELBO, Sparse
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from torch import nn

import skvae
from skvae import ELBO, Gaussian, VAEAnomalyDetector, VAETransformer
from skvae._inference.criteria import CRITERIA
from skvae._math import log_normal
from skvae._torch import build_seeded
from skvae.model import AutoregressiveVAE, Dims
from skvae.objectives import Batch, Objective, OnePass
from skvae.priors import Mixture, Prior, PriorSpec

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PROBES = {
    "elbo": {"objective": PlainELBO()},
    "contractive": {"objective": Contractive(0.5)},
    "vaegan": {"objective": VAEGAN(width=16)},
    "pixelcnn": {"decoder": PixelCNN(), "likelihood": "bernoulli"},
    "autoencoder": {"objective": Autoencoder()},
    "sparse": {"objective": Sparse()},
    "adversarial": {"objective": Adversarial()},
    "groups": {"prior": Groups()},
    "mixture": {"prior": Mixture(4)},
}
DENSITIES = {"elbo", "pixelcnn", "groups", "mixture"}
POSTERIORS = DENSITIES | {"vaegan"}
PRIORS = POSTERIORS | {"adversarial"}
WATCHED = set(PROBES) - {"vaegan"}
WITH_EXTRAS = {"vaegan", "adversarial"}
every_probe = pytest.mark.parametrize("name", PROBES)


def digits(name, n_rows=300):
    X = load_digits().data[:n_rows]
    return (X > 7).astype(float) if name == "pixelcnn" else X


def estimator(name, **params):
    shared = {"hidden_layer_sizes": (16,), "max_iter": 4, "n_draws": 8, "random_state": 0}
    return VAETransformer(3, **{**shared, **PROBES[name], **params})


@cache
def fitted(name):
    return estimator(name).fit(digits(name))


def objective_of(name):
    objective = PROBES[name].get("objective", "elbo")
    return objective if isinstance(objective, Objective) else ELBO()


def model_in_training(name):
    """A copy of the fitted model with gradients, and a batch in its units."""
    vae = pickle.loads(pickle.dumps(fitted(name)))
    model = vae.module_.requires_grad_(True)
    x = scale_of(vae).to_model(digits(name, 20))
    return model, Batch(torch.tensor(x))


def terms_of(name, model, batch):
    """Every player's terms."""
    found = {}
    for turn in objective_of(name).players(model):
        found |= turn.terms(model, batch, seeded(), 1)
    return found


# The contract


@every_probe
def test_training_lowers_the_loss(name):
    curve = estimator(name, max_iter=8).fit(digits(name)).loss_curve_
    assert np.isfinite(curve).all()
    assert curve[-1] < curve[0]


@every_probe
def test_terms_are_a_number_or_one_a_row_and_hold_the_loss(name):
    model, batch = model_in_training(name)
    first, *_ = turns = objective_of(name).players(model)
    assert "loss" in first.terms(model, batch, seeded(), 1)
    for turn in turns:
        terms = turn.terms(model, batch, seeded(), 1)
        assert turn.loss in terms
        assert all(term.shape in [(), (20,)] and bool(term.isfinite().all()) for term in terms.values())


@every_probe
def test_history_holds_every_term(name):
    model, batch = model_in_training(name)
    assert fitted(name).history_.keys() == terms_of(name, model, batch).keys()


@every_probe
def test_players_are_disjoint_and_together_train_all_the_loss_depends_on(name):
    model, _ = model_in_training(name)
    groups = [turn.parameters for turn in objective_of(name).players(model)]
    found = [id(p) for group in groups for p in group]
    expected = dict(model.named_parameters())
    if name in WITH_EXTRAS:  # their errors have no noise
        expected = {k: v for k, v in expected.items() if not k.startswith("likelihood")}
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in expected.values()}


@every_probe
def test_every_player_has_a_gradient(name):
    model, batch = model_in_training(name)
    for turn in objective_of(name).players(model):
        loss = turn.terms(model, batch, seeded(), 1)[turn.loss].mean()
        grads = torch.autograd.grad(loss, turn.parameters, allow_unused=True)
        assert max(float(g.abs().max()) for g in grads if g is not None) > 0


@every_probe
def test_extra_modules_are_those_of_the_hook(name):
    objective = objective_of(name)
    extras = build_seeded(lambda: nn.ModuleDict(objective.modules(Dims(64, 3, 64, 64))), seeded())
    saved = {k.removeprefix("extras."): v.shape for k, v in fitted(name)._weights.items() if k.startswith("extras.")}
    assert saved == {k: tuple(v.shape) for k, v in extras.state_dict().items()}
    assert bool(saved) == (name in WITH_EXTRAS)


@every_probe
def test_monitor_is_one_number_a_row_without_gradients_or_none(name):
    model, batch = model_in_training(name)
    monitor = objective_of(name).monitor
    assert (monitor is not None) == (name in WATCHED)
    if monitor is not None:
        with torch.no_grad():
            values = monitor(model, batch, seeded())
        assert values.shape == (20,)
        assert not values.requires_grad
        assert bool(values.isfinite().all())


@every_probe
def test_rows_are_held_out_where_there_is_something_to_watch(name):
    assert len(fitted(name).validation_curve_) == (5 if name in WATCHED else 0)


def test_early_stopping_cannot_be_forced_where_there_is_nothing_to_watch():
    with pytest.raises(ValueError, match="early_stopping=True needs a number to watch, which VAEGAN lacks"):
        estimator("vaegan", early_stopping=True).fit(digits("vaegan"))


METHODS = {
    "transform": set(PROBES),
    "inverse_transform": set(PROBES),
    "reconstruct": set(PROBES),
    "impute": set(PROBES),
    "posterior": POSTERIORS,
    "sample": PRIORS,
    "score": DENSITIES,
    "score_samples": DENSITIES,
}


@every_probe
def test_methods_are_those_that_the_objective_offers(name):
    for method, having in METHODS.items():
        for vae in (estimator(name), fitted(name)):
            assert hasattr(vae, method) == (name in having), method
    for attribute in ("latent_information_", "active_components_"):
        assert hasattr(fitted(name), attribute) == (name in POSTERIORS)
    # A Bernoulli has no noise.
    assert hasattr(fitted(name), "noise_variance_") == (name in DENSITIES - {"pixelcnn"})


ABSENT = {
    "posterior": r"objective=Autoencoder\(\) trains codes without a spread; use transform",
    "sample": r"objective=Autoencoder\(\) does not train p\(z\).* use an objective that does",
    "score": r"objective=Autoencoder\(\) trains no density of X.* compare reconstruct",
}


@pytest.mark.parametrize("method", ABSENT)
def test_an_absent_method_says_why_and_what_to_use(method):
    with pytest.raises(AttributeError) as caught:
        getattr(fitted("autoencoder"), method)
    with pytest.raises(AttributeError, match=ABSENT[method]):
        raise caught.value.__cause__


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_scores_are_finite(name):
    scores = fitted(name).score_samples(digits(name, 30))
    assert scores.shape == (30,)
    assert np.isfinite(scores).all()


@every_probe
def test_codes_and_reconstructions_are_finite_arrays_of_the_right_shape(name):
    X = digits(name, 30)
    Z = fitted(name).transform(X)
    back = fitted(name).inverse_transform(Z)
    assert Z.shape == (30, 3)
    assert back.shape == (30, 64)
    assert np.isfinite(Z).all()
    assert np.isfinite(back).all()


@every_probe
def test_answers_are_the_same_twice(name):
    X = digits(name, 30)
    np.testing.assert_array_equal(fitted(name).transform(X), fitted(name).transform(X))
    np.testing.assert_array_equal(fitted(name).reconstruct(X), fitted(name).reconstruct(X))


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_samples_lie_in_the_support(name):
    draws = fitted(name).sample(20, random_state=0)
    assert draws.shape == (20, 64)
    assert np.isfinite(draws).all()
    if name == "pixelcnn":
        assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_array_equal(draws, fitted(name).sample(20, random_state=0))


@every_probe
def test_pickle_gives_back_the_same_numbers_and_modules(name):
    vae, X = fitted(name), digits(name, 30)
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.transform(X), vae.transform(X))
    if name in PRIORS:
        np.testing.assert_array_equal(again.sample(3, random_state=0), vae.sample(3, random_state=0))
    one, other = vae.module_.state_dict(), again.module_.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@every_probe
def test_two_fits_give_the_same_bits(name):
    again = estimator(name).fit(digits(name))
    assert again._weights.keys() == fitted(name)._weights.keys()
    for key, value in fitted(name)._weights.items():
        np.testing.assert_array_equal(again._weights[key], value)
    assert again.history_ == fitted(name).history_


@every_probe
def test_other_seeds_give_another_model(name):
    other = estimator(name, random_state=1, max_iter=1).fit(digits(name))
    assert other.loss_curve_[0] != fitted(name).loss_curve_[0]


@every_probe
def test_clone_is_unfitted_and_fits_to_the_same_model(name):
    copy = clone(fitted(name))
    assert not hasattr(copy, "n_iter_")
    assert repr(copy) == repr(fitted(name))
    X = digits(name, 30)
    np.testing.assert_array_equal(copy.fit(digits(name)).transform(X), fitted(name).transform(X))


@every_probe
def test_partial_fit_continues(name):
    vae = estimator(name).partial_fit(digits(name, 100))
    for _ in range(3):
        vae.partial_fit(digits(name, 100))
    assert vae.n_iter_ == 4
    assert np.isfinite(vae.loss_curve_).all()


@every_probe
def test_missing_cells_are_accepted_but_by_a_decoder_that_reads_its_own_rows(name):
    X = digits(name, 60).copy()
    X[::3, 20:24] = np.nan
    if name == "pixelcnn":
        with pytest.raises(ValueError, match="needs complete rows"):
            estimator(name, max_iter=2).fit(X)
        return
    vae = estimator(name, max_iter=2).fit(X)
    assert np.isfinite(vae.transform(X)).all()
    filled = vae.impute(X)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    if name not in DENSITIES:
        with pytest.raises(ValueError, match="trains no density to draw from; use n_draws=None"):
            vae.impute(X, n_draws=2)


@every_probe
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_a_criterion_is_refused_by_name_where_the_objective_cannot_answer_it(name, criterion):
    needs = {"latent": POSTERIORS}.get(criterion, set(PROBES) if "reconstruction" in criterion else DENSITIES)
    needs = DENSITIES if criterion == "reconstruction_probability" else needs
    settings = {"hidden_layer_sizes": (16,), "max_iter": 1, "n_draws": 8, "random_state": 0, **PROBES[name]}
    detector, X = VAEAnomalyDetector(3, criterion=criterion, **settings), digits(name, 60)
    if name not in needs:
        with pytest.raises(ValueError, match=f"criterion='{criterion}' needs an objective that offers a"):
            detector.fit(X)
        return
    if name == "pixelcnn":  # its means take as many passes as it has pixels
        return
    scores = detector.fit(X).score_samples(X)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(detector.explain(X[:5]).sum(1), scores[:5] - detector.training_scores_.mean())


def mean_error(vae, X, y=None):
    return -np.square(vae.reconstruct(X) - X).mean()


@pytest.mark.parametrize(
    ("name", "parameter", "values"),
    [
        ("contractive", "objective__weight", [0.01, 100.0]),
        ("vaegan", "objective__width", [4, 16]),
        ("pixelcnn", "decoder__channels", [2, 4]),
        ("sparse", "objective__weight", [0.0, 10.0]),
        ("adversarial", "objective__weight", [0.1, 1000.0]),
        ("groups", "prior__n_groups", [1, 5]),
        ("mixture", "prior__n_modes", [1, 5]),
    ],
)
def test_hyperparameters_can_be_searched(name, parameter, values):
    scoring = None if name in DENSITIES else mean_error
    one_epoch = estimator(name, max_iter=1, early_stopping=False)
    search = GridSearchCV(one_epoch, {parameter: values}, cv=2, scoring=scoring, error_score="raise")
    search.fit(digits(name, 100))
    assert search.best_params_[parameter] in values
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]


def test_skvae_knows_no_probe_by_name_outside_its_family():
    for file in Path(skvae.__file__).parent.rglob("*.py"):
        if file.parent.name in ("objectives", "priors", "networks") and file.name != "_base.py":
            continue  # members may share a probe's name
        text = re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL).lower()  # docstrings may cite
        assert not [word for word in ("contractive", "pixelcnn", "plainelbo") if word in text]


# What each is for


def test_own_elbo_trains_as_the_built_in_one():
    own = fitted("elbo")
    built_in = estimator("elbo", objective="elbo").fit(digits("elbo"))
    np.testing.assert_allclose(own.loss_curve_, built_in.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(own.validation_curve_, built_in.validation_curve_, rtol=1e-5)
    np.testing.assert_allclose(own.transform(digits("elbo")), built_in.transform(digits("elbo")), atol=1e-3)


def encoder_slope(weight):
    vae = estimator("contractive", objective=Contractive(weight), max_iter=30, early_stopping=False).fit(digits("elbo"))
    return vae.history_["contraction"][-1]


def test_a_heavier_penalty_flattens_the_encoder():
    assert encoder_slope(100.0) < 0.5 * encoder_slope(0.0)


def test_contraction_is_the_squared_norm_of_the_encoders_jacobian():
    model, batch = model_in_training("contractive")
    found = Contractive()(model, batch, seeded(), 1)["contraction"]
    for row, value in zip(batch.x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: model.encode_mean(x[None])[0], row)
        assert value.item() == pytest.approx(jacobian.square().sum().item(), rel=1e-8)


def test_contractions_gradient_reaches_the_encoder_through_the_second_derivative():
    model, batch = model_in_training("contractive")
    contraction = Contractive()(model, batch, seeded(), 1)["contraction"].mean()
    weight = model.encoder.linear.weight
    (grad,) = torch.autograd.grad(contraction, weight)
    j = (0, 5)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight[j] += step
        values.append(Contractive()(model, batch, seeded(), 1)["contraction"].mean().item())
        with torch.no_grad():
            weight[j] -= step
    assert grad[j].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_discriminator_is_trained_and_saved_with_the_model():
    start = estimator("vaegan", max_iter=1, learning_rate_init=1e-12).fit(digits("vaegan"))
    for key in ("extras.features.0.weight", "extras.verdict.weight"):
        assert np.abs(fitted("vaegan")._weights[key] - start._weights[key]).max() > 1e-3


def test_a_decoder_that_reads_the_row_makes_an_autoregressive_model():
    assert isinstance(fitted("pixelcnn").module_, AutoregressiveVAE)


def test_outputs_for_a_pixel_depend_on_earlier_pixels_only():
    model, batch = model_in_training("pixelcnn")
    z = torch.randn(20, 3, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        before = model.params(z, batch.x)
        reached = 0
        for pixel in range(64):
            x = batch.x.clone()
            x[:, pixel:] = torch.randn(20, 64 - pixel, generator=seeded(pixel), dtype=torch.float64)
            after = model.params(z, x)
            assert torch.equal(after[:, : pixel + 1], before[:, : pixel + 1])
            reached += int(not torch.equal(after[:, pixel + 1 :], before[:, pixel + 1 :]))
        assert reached >= 60
        assert not torch.equal(model.params(z + 1, batch.x), before)


def test_autoregressive_sample_is_drawn_pixel_by_pixel(any_seed):
    """Each pixel, redrawn with what came before it in place, has the probability its outputs say."""
    model, _ = model_in_training("pixelcnn")
    z = torch.zeros(400, 3, dtype=torch.float64)
    with torch.no_grad():
        draws = model.sample(z, seeded(any_seed))
        expected = model.params(z, draws).sigmoid()
    error = (draws - expected).mean(0).abs()
    bound = 5 * (expected * (1 - expected)).mean(0).sqrt() / 400**0.5 + 1e-9
    assert bool((error < bound).all())


def test_score_of_an_autoregressive_model_reads_the_row():
    """log p(x|z) is the chain rule's sum over pixels, which adds to one over all images of the last four pixels."""
    model, batch = model_in_training("pixelcnn")
    x = batch.x[:1].repeat(16, 1)
    x[:, 60:] = torch.tensor([[i >> b & 1 for b in range(4)] for i in range(16)], dtype=torch.float64)
    with torch.no_grad():
        terms = model.log_prob(torch.zeros(16, 3, dtype=torch.float64), x)
    assert terms[:, 60:].sum(1).exp().sum().item() == pytest.approx(1)
    assert torch.equal(terms[:, :60], terms[:1, :60].expand(16, -1))


@pytest.mark.parametrize("init", ["linear", "random"])
def test_a_linear_autoencoder_spans_the_principal_subspace(init):
    X = load_digits().data
    X = X[:, X.std(axis=0) > 0.5][:1000]
    settings = {"hidden_layer_sizes": (), "max_iter": 150 if init == "linear" else 300, "early_stopping": False}
    settings |= {"learning_rate_init": 1e-3 if init == "linear" else 3e-3, "likelihood": Gaussian("shared")}
    vae = VAETransformer(5, objective=Autoencoder(), init=init, random_state=0, **settings).fit(X)
    pca = PCA(5).fit(X)
    loadings = vae.module_.decoder.linear.weight.detach().numpy()
    assert subspace_angles(loadings, pca.components_.T).max() < 2e-3
    error, least = (np.square(back - X).sum() for back in (vae.reconstruct(X), pca.inverse_transform(pca.transform(X))))
    assert error / least == pytest.approx(1, abs=1e-5)


def test_a_code_has_as_many_numbers_as_latents():
    assert fitted("autoencoder").module_.encoder.linear.out_features == 3
    assert fitted("vaegan").module_.encoder.linear.out_features == 6


def test_gaps_take_the_reconstruction_and_go_on_where_that_rebuilds_the_other_cells_better():
    """By hand: twice, half of the way to the reconstruction of the row as it is filled by then, a fourth after a no."""
    X = digits("autoencoder").copy()
    gaps = np.random.default_rng(0).random(X.shape) < 0.3
    vae = estimator("autoencoder", max_iter=20).fit(X)
    seen, means = np.where(gaps, np.nan, X), np.broadcast_to(X.mean(0), X.shape)

    def wrong(rebuilt):
        return (np.square((rebuilt - X) / vae.scale_) * ~gaps).sum(axis=1)

    first = filled = np.where(gaps, vae.reconstruct(seen), X)
    rebuilt, step, taken = vae.reconstruct(filled), np.full((len(X), 1), 0.5), 0
    for _ in range(2):
        ahead = np.where(gaps, filled + step * (rebuilt - filled), X)
        better = (wrong(vae.reconstruct(ahead)) < wrong(rebuilt))[:, None]
        filled, taken = np.where(better, ahead, filled), taken + better.mean() / 2
        rebuilt, step = vae.reconstruct(filled), np.where(better, step, step / 2)
    assert 0.2 < taken < 1
    np.testing.assert_allclose(vae.impute(seen), filled, rtol=1e-4, atol=1e-4)  # rows in float32
    error, before, plain = (np.square((guess - X)[gaps]).mean() for guess in (filled, first, means))
    assert error < 0.97 * before < 0.9 * plain


def test_samples_without_a_density_are_means():
    """The noise of p(x|z) was never trained."""
    vae, model = fitted("adversarial"), fitted("adversarial").module_
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    z = model.prior.sample(5, seeded(seed), torch.float64)
    with torch.no_grad():
        expected = scale_of(vae).to_data(model.mean(z).numpy())
    np.testing.assert_allclose(vae.sample(5, random_state=0, prior="model"), expected)


def test_a_heavier_penalty_quiets_the_hidden_units():
    quiet, loud = (
        estimator("sparse", objective=Sparse(weight), max_iter=20, early_stopping=False).fit(digits("sparse"))
        for weight in (1.0, 0.0)
    )
    assert quiet.history_["activity"][-1] < 0.5 * loud.history_["activity"][-1]


def test_the_critic_pulls_codes_towards_the_prior():
    free, bound = (
        estimator("adversarial", objective=Adversarial(weight), max_iter=60, early_stopping=False, init="random")
        .fit(digits("adversarial"))
        .transform(digits("adversarial"))
        for weight in (0.0, 30.0)
    )
    assert np.abs(bound.std(axis=0) - 1).max() < np.abs(free.std(axis=0) - 1).max()


def test_turns_are_taken_one_after_the_other():
    """The second player's pass sees what the first one's step has changed."""
    seen = []

    class Watching(Adversarial):
        def __call__(self, model, batch, rng, epoch):
            seen.append(model.encoder.linear.weight.detach().clone())
            return super().__call__(model, batch, rng, epoch)

        def critic(self, model, batch, rng, epoch):
            seen.append(model.encoder.linear.weight.detach().clone())
            return super().critic(model, batch, rng, epoch)

        monitor = None

    estimator("adversarial", objective=Watching(), max_iter=1).fit(digits("adversarial", 60))
    assert len(seen) == 4  # two batches
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])


# Targets, views, and priors that read the encoder


class Paired(Autoencoder):
    """Noisy rows towards clean ones."""

    target = "row"

    def views(self, units, batch, rng):
        return batch, Batch(batch.y, batch.mask, batch.weight)


def test_rows_may_be_trained_towards_others_in_data_units():
    X = load_digits().data[:300]
    noisy = X + np.random.default_rng(0).normal(size=X.shape) * 2
    settings = {"max_iter": 20, "init": "random", "early_stopping": False, "learning_rate_init": 1e-2}
    paired = estimator("autoencoder", objective=Paired(), **settings).fit(noisy, X)
    plain = estimator("autoencoder", **settings).fit(noisy)
    errors = [np.square(vae.reconstruct(noisy) - X).mean() for vae in (paired, plain)]
    assert errors[0] < errors[1]
    with pytest.raises(ValueError, match="is trained towards y; give fit a y"):
        estimator("autoencoder", objective=Paired()).fit(noisy)
    with pytest.raises(ValueError, match="y holds NaN"):
        estimator("autoencoder", objective=Paired()).fit(noisy, np.where(X > 15, np.nan, X))
    with pytest.raises(ValueError, match="features"):
        estimator("autoencoder", objective=Paired()).fit(noisy, X[:, :5])


class Shifted(Autoencoder):
    """The encoder sees every cell higher by a number of data units."""

    in_data_units = True

    def __init__(self, shift=1.0):
        self.shift = shift

    def views(self, units, batch, rng):
        seen = units.to_model(units.to_data(batch.x) + self.shift).to(batch.x.dtype)
        return Batch(seen, batch.mask, batch.weight), batch


def test_views_may_speak_the_datas_units():
    vae = estimator("autoencoder", objective=Shifted(3.0)).fit(digits("autoencoder"))
    model, x = vae.module_, torch.zeros(2, 64, dtype=torch.float64)
    seen, compared = vae.objective.views(model.units, Batch(x), None)
    np.testing.assert_allclose(seen.x, np.broadcast_to(3.0 / vae.scale_, (2, 64)))
    assert torch.equal(compared.x, x)
    assert isinstance(vae.objective, OnePass)


class PseudoRows(Prior):
    """p(z) = 1/K sum_k q(z|u_k), u_k learnt (Tomczak & Welling 2018)."""

    reads_encoder = True

    def __init__(self, n_components, n_inputs, n_rows):
        super().__init__(n_components)
        self.seen = nn.Parameter(torch.randn(n_rows, n_inputs))

    def bind(self, encode):
        self.encode = encode

    def log_prob(self, z):
        mu, log_var = self.encode(self.seen)
        terms = log_normal((z[..., None, :] - mu) * torch.exp(-0.5 * log_var), log_var).sum(-1)
        return torch.logsumexp(terms, -1) - np.log(len(mu))

    def sample(self, n_samples, rng, dtype=torch.float32):
        mu, log_var = self.encode(self.seen)
        row = torch.randint(len(mu), (n_samples,), generator=rng)
        eps = torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype)
        return (mu[row] + torch.exp(0.5 * log_var[row]) * eps).to(dtype)


class Vamp(PriorSpec):
    def build(self, n_components, density):
        return PseudoRows(n_components, density.encoding.n_inputs, 5)


def test_a_prior_may_read_the_encoder():
    vae = estimator("elbo", objective="elbo", prior=Vamp()).fit(digits("elbo"))
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.sample(3, random_state=0), vae.sample(3, random_state=0))
    assert again.module_.prior.encode.__self__ is again.module_
    assert [key for key in vae._weights if key.startswith("prior")] == ["prior.seen"]
    assert np.isfinite(vae.score(digits("elbo")))
