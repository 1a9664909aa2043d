"""Every objective that holds codes to a prior, or plays against a critic, through the estimators."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROUTES, rows_of, scale_of, seeded
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import InvalidParameterError

from skvae import VAEAnomalyDetector, VAETransformer
from skvae.objectives import ALI, VAEGAN, WAE, Adversarial, Batch, Objective
from skvae.priors import Mixture, Vamp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OBJECTIVES = {
    "wae": "wae",
    "wae rbf": WAE(kernel="rbf"),
    "wae gan": WAE("gan", width=16),
    "adversarial": "adversarial",
    "vaegan": VAEGAN(width=16),
    "vaegan adversarial": VAEGAN("adversarial", width=16),
    "ali": "ali",
    "alice": ALI(1.0, width=16),
    "hali": ALI(levels=(2,), width=16),
}
# How many players there are beside the prior's.
N_PLAYERS = {"wae": 1, "wae rbf": 1, "vaegan": 3, "vaegan adversarial": 3}  # else 2
POSTERIORS = {"vaegan", "vaegan adversarial", "ali", "alice", "hali"}
WATCHED = {"wae", "wae rbf", "wae gan", "adversarial"}
SEARCHES = {
    "wae": ("weight", [0.0, 1000.0]),
    "wae gan": ("width", [4, 16]),
    "adversarial": ("weight", [0.1, 100.0]),
    "vaegan": ("gamma", [0.0, 10.0]),
    "ali": ("levels", [None, (2,)]),
    "alice": ("noise", [0.0, 4.0]),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
PRIORS = {"normal": "normal", "mixture": Mixture(3), "vamp": Vamp(4)}
every_pair = pytest.mark.parametrize(
    ("name", "prior"), [(n, p) for n in OBJECTIVES for p in PRIORS if (n, p) != ("hali", "vamp")]
)


def digits(n_rows=200):
    return load_digits().data[:n_rows]


def estimator(name, **parameters):
    settings = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0, "objective": OBJECTIVES[name]}
    return VAETransformer(3, **{**settings, **parameters})


@cache
def fitted(name, prior="normal"):
    return estimator(name, prior=PRIORS[prior]).fit(digits())


def objective_of(name):
    return fitted(name)._specs["objective"]


def model_in_training(name):
    return copy.deepcopy(fitted(name).module_).requires_grad_(True)


@every_pair
def test_fits_repeat_bit_for_bit_and_clone(name, prior):
    vae = fitted(name, prior)
    again = clone(vae).fit(digits())
    assert vae._weights.keys() == again._weights.keys()
    for key, value in vae._weights.items():
        np.testing.assert_array_equal(again._weights[key], value)
    assert vae.history_ == again.history_
    assert all(np.isfinite(values).all() for values in vae.history_.values())
    other = estimator(name, prior=PRIORS[prior], random_state=1).fit(digits())
    assert np.abs(other.transform(digits()) - vae.transform(digits())).max() > 1e-3


@every_objective
def test_methods_are_those_that_it_offers(name):
    posterior = name in POSTERIORS
    for vae in (estimator(name), fitted(name)):
        for method in ("transform", "inverse_transform", "reconstruct", "impute", "sample"):
            assert hasattr(vae, method)
        for method in ("score", "score_samples"):
            assert not hasattr(vae, method)
        assert hasattr(vae, "posterior") == posterior
    for attribute in ("latent_information_", "active_components_"):
        assert hasattr(fitted(name), attribute) == posterior
    assert not hasattr(fitted(name), "noise_variance_")
    assert len(fitted(name).validation_curve_) == (4 if name in WATCHED else 0)
    with pytest.raises(ValueError, match="trains no density to draw from"):
        fitted(name).impute(np.where(digits() > 15, np.nan, digits()), n_draws=2)


@every_pair
def test_samples_are_means_of_decoded_draws_of_the_prior(name, prior):
    vae = fitted(name, prior)
    model = vae.module_
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    with torch.no_grad():
        z = model.prior.sample(5, seeded(seed), torch.float64)
        expected = scale_of(vae).to_data(model.mean(z).numpy())
    np.testing.assert_allclose(vae.sample(5, random_state=0, prior="model"), expected)


@every_pair
def test_saved_models_answer_and_go_on_as_the_original(name, prior, tmp_path):
    """The optimisers of all players go on where they were."""
    vae = estimator(name, prior=PRIORS[prior]).partial_fit(digits(100)).partial_fit(digits(100))
    assert len(vae._solver_state) == N_PLAYERS.get(name, 2) + (prior != "normal" or name == "hali")
    assert all(np.abs(state["exp_avg"]).max() > 0 for state in vae._solver_state)
    loaded = [ROUTES[route](vae, tmp_path) for route in ("pickle", "skops")]
    drawn = vae.sample(3, random_state=0)
    vae.partial_fit(digits(100))
    for again in loaded:
        np.testing.assert_array_equal(again.sample(3, random_state=0), drawn)
        again.partial_fit(digits(100))
        for key, value in vae._weights.items():
            np.testing.assert_array_equal(again._weights[key], value)
    afresh = ROUTES["pickle"](vae, tmp_path)
    afresh._solver_state = []
    found = [one.partial_fit(digits(100)).transform(digits()) for one in (vae, afresh)]
    assert np.abs(found[0] - found[1]).max() > 1e-6


@every_objective
def test_gaps_and_weights_and_single_rows_are_taken(name):
    X = digits(60).copy()
    X[::3, 20:24] = np.nan
    vae = estimator(name, max_iter=2).fit(X, sample_weight=np.linspace(0.1, 3, 60))
    filled = vae.impute(X)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    one = estimator(name).partial_fit(digits(1))
    assert np.isfinite(one.partial_fit(digits(1)).loss_curve_).all()
    assert np.isfinite(estimator(name, batch_size=1, max_iter=1).fit(digits(25)).sample(2, random_state=0)).all()


@every_objective
def test_what_stands_in_a_missing_cell_is_of_no_account(name):
    model, objective, rows = model_in_training(name), objective_of(name), rows_of(fitted(name), digits(30))
    present = (torch.rand(rows.x.shape, generator=seeded()) < 0.7).double()
    one, other = (Batch(torch.where(present > 0, rows.x, fill), present) for fill in (0.0, 9.0))
    for turn in objective.players(model):
        terms = [turn.terms(model, batch, seeded(), 1) for batch in (one, other)]
        for key, value in terms[0].items():
            torch.testing.assert_close(terms[1][key], value, rtol=1e-10, atol=1e-10)


@every_objective
def test_tables_of_several_kinds_are_taken(name):
    iris = load_iris(as_frame=True)
    frame = iris.data.assign(kind=pd.Categorical.from_codes(iris.target, ["a", "b", "c"]), petals=(iris.target + 1) * 3)
    vae = VAETransformer(2, likelihood="auto", objective=OBJECTIVES[name], max_iter=3, random_state=0).fit(frame)
    drawn = vae.sample(20, random_state=0, prior="model")
    assert list(drawn.columns) == list(frame.columns)
    assert set(drawn["kind"]) <= {"a", "b", "c"}
    assert np.isfinite(vae.transform(frame)).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
@every_objective
def test_set_values_are_taken(name, likelihood):
    X = digits() > 7 if likelihood == "bernoulli" else digits()
    vae = estimator(name, likelihood=likelihood).fit(X.astype(float))
    assert np.isfinite(vae.loss_curve_).all()
    assert np.isfinite(vae.sample(3, random_state=0)).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_parameters_can_be_searched_in_a_pipeline(name):
    parameter, values = SEARCHES[name]
    pipe = make_pipeline(estimator(name), LogisticRegression(max_iter=200))
    own = {"vaetransformer__objective": [objective_of(name)]}
    search = GridSearchCV(pipe, own | {f"vaetransformer__objective__{parameter}": values}, cv=2, error_score="raise")
    search.fit(digits(), load_digits().target[:200])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fits = [
        estimator(name, objective=clone(objective_of(name)).set_params(**{parameter: v})).fit(digits()) for v in values
    ]
    assert fits[0].loss_curve_ != fits[1].loss_curve_


@every_objective
def test_detectors_judge_by_reconstruction_and_refuse_the_rest(name):
    detector = VAEAnomalyDetector(3, objective=OBJECTIVES[name], criterion="reconstruction", max_iter=2, random_state=0)
    assert np.isfinite(detector.fit(digits()).score_samples(digits())).all()
    with pytest.raises(ValueError, match="needs an objective that offers a"):
        detector.set_params(criterion="elbo").fit(digits())


@every_objective
def test_draws_come_from_the_generator_that_is_handed_in(name):
    model, objective, rows = model_in_training(name), objective_of(name), rows_of(fitted(name), digits(30))
    for turn in objective.players(model):
        first, again = (turn.terms(model, rows, seeded(), 1)[turn.loss] for _ in range(2))
        assert torch.equal(first, again)


WRONG = [
    WAE("kl"),
    WAE(kernel="linear"),
    WAE(weight=-1.0),
    WAE(weight="much"),
    WAE(width=0),
    Adversarial(-1.0),
    Adversarial(width=2.5),
    VAEGAN("none"),
    VAEGAN(beta=-1.0),
    VAEGAN(gamma=-1.0),
    VAEGAN(width=0),
    ALI(-1.0),
    ALI(levels=3),
    ALI(noise=-0.1),
    ALI(width=0),
]


@pytest.mark.parametrize("objective", WRONG, ids=repr)
def test_wrong_parameters_are_refused_and_the_previous_model_stays(objective):
    vae = clone(fitted("wae")).fit(digits())
    before = vae.transform(digits())
    with pytest.raises(InvalidParameterError, match=f"parameter of {type(objective).__name__} must be"):
        vae.set_params(objective=objective).fit(digits())
    np.testing.assert_array_equal(vae.transform(digits()), before)


@every_objective
def test_its_name_is_that_of_its_family(name):
    assert isinstance(objective_of(name), Objective)
    assert type(objective_of(name)).__module__ == "skvae.objectives"
