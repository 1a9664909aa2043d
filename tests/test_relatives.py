"""Every objective with every prior, network and likelihood, read from the families: a new member joins by itself.

Objectives meet priors in full, in every setting. Of all four families together there are thousands of cases, so those
are tried that hold every pair of members (`covering`). What is not allowed is stated in `refusal`.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import Watcher, assert_same, by_skops, make, with_gaps
from members import MEMBERS, table
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils._param_validation import StrOptions
from torch import nn

import skvae
from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV, networks, objectives, priors
from skvae.metrics import reconstruction_error
from skvae.networks import Network
from skvae.objectives import OBJECTIVES, Objective
from skvae.priors import PRIORS, PriorSpec

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 24
ONE_FOLD = [(np.arange(N) % 3 > 0, np.arange(N) % 3 == 0)]  # rows to train on, and to score
# Classes that need an argument, and settings beside those that a parameter's rule lists.
NEED: dict[str, dict[str, Any]] = {"FeatureConsistent": {"network": nn.Identity()}}
ALSO: dict[str, list[dict[str, Any]]] = {
    "ELBO": [{"beta": 4.0}, {"n_draws": 3}, {"free_bits": 0.1}],
    "ALI": [{"cycle_weight": 1.0}, {"levels": (2,)}],
    "Sparse": [{"penalty": "kl", "layer": "code", "code": "sigmoid"}],
}
# Priors that are made of a fitted model, and so no parameter.
NO_PARAMETER = {"AggregatedPosterior"}


def classes(family: Any, base: type) -> dict[str, type]:
    """The public classes of a family that are complete."""
    found = {name: getattr(family, name) for name in family.__all__}
    kinds = {n: kind for n, kind in found.items() if isinstance(kind, type) and issubclass(kind, base)}
    return {n: kind for n, kind in kinds.items() if not inspect.isabstract(kind) and n not in {"Network", "Supplied"}}


def settings(kind: type, needed: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A member as it is by default, and with every other word that its parameters' rules list, one at a time."""
    default = kind(**needed)
    yield "", default
    for parameter, rules in kind._parameter_constraints.items():
        words = sorted(word for rule in rules if isinstance(rule, StrOptions) for word in rule.options)
        for word in words:
            if word != getattr(default, parameter) and parameter not in needed:
                yield f"({parameter}={word})", kind(**{**needed, parameter: word})
    for changes in ALSO.get(kind.__name__, []):
        name = ", ".join(f"{parameter}={value}" for parameter, value in changes.items())
        yield f"({name})", kind(**{**needed, **changes})


def family(registered: dict[str, Any], module: Any, base: type) -> dict[str, Any]:
    """Every member by its registered name, or its class', in all its settings."""
    found: dict[str, Any] = {}
    by_class = {type(make_one()): name for name, make_one in reversed(registered.items())}
    for name, kind in classes(module, base).items():
        if name in NO_PARAMETER:
            continue
        for setting, member in settings(kind, NEED.get(name, {})):
            found[by_class.get(kind, name) + setting] = member
    return {**{name: make_one() for name, make_one in registered.items()}, **found}


FAMILY = {"objective": family(OBJECTIVES, objectives, Objective), "prior": family(PRIORS, priors, PriorSpec)}


def of_image(kind: type[Network], n_columns: int) -> Network:
    """A network of this class for so many columns, a small image where it wants one."""
    asks = inspect.signature(kind).parameters
    return kind(**({"image_shape": (1, n_columns)} if "image_shape" in asks else {}))


def roles() -> dict[str, dict[str, type[Network]]]:
    """Every network in every role it has, by name: the parameters it is given as."""
    found: dict[str, dict[str, type[Network]]] = {"MLP": {}}  # what an estimator has by default
    for name, kind in classes(networks, Network).items():
        if name == "MLP":
            continue
        has = [role for role in ("encoder", "decoder") if f"build_{role}" in _written(kind)]
        for some in [has[:1], has[1:], has] if len(has) > 1 else [has]:
            found[f"{name} {' and '.join(some)}"] = dict.fromkeys(some, kind)
    return found


def _written(kind: type[Network]) -> set[str]:
    """The methods that a class has not from the base of its family."""
    return {name for name in dir(kind) if getattr(kind, name) is not getattr(Network, name, None)}


ROLES = roles()


class Case(NamedTuple):
    """One model: names of its members."""

    objective: str
    prior: str
    network: str = "MLP"
    likelihood: str = "feature"

    @property
    def rows(self) -> np.ndarray:
        return table(self.likelihood, N)

    @property
    def spec(self) -> Objective:
        return FAMILY["objective"][self.objective]

    @property
    def y(self) -> Any:
        """What the objective's target asks for."""
        labels = np.where(np.arange(N) % 3, np.arange(N) % 2, np.nan)
        return {None: None, "row": self.rows, "filled": self.rows, "label": labels}[self.spec.target]

    def estimator(self, **parameters: Any) -> Any:
        kinds = ROLES[self.network]
        built = {role: of_image(kind, self.rows.shape[1]) for role, kind in kinds.items()}
        own = {"objective": self.spec, "prior": FAMILY["prior"][self.prior], "likelihood": MEMBERS[self.likelihood]}
        # Where the means of activations are compared with a share, they must be shares.
        activation = "sigmoid" if getattr(self.spec, "penalty", None) == "kl" else "relu"
        shared = {"hidden_layer_sizes": (4,), "activation": activation, "max_iter": 2, "n_draws": 4}
        return make(**{**shared, **own, **built, **parameters})

    @property
    def id(self) -> str:
        return "-".join(self)


# Cells that hold set values: no number between them would be one.
SET_VALUES = {"bernoulli", "continuous_bernoulli", "poisson", "negative_binomial", "categorical"}
# Objectives that compare the mean of p(x|z), which categories do not have, with rows.
OF_MEANS = {"FeatureConsistent": "compares means of .* which categories do not have; give them as one-hot columns"}
# A network that is a decoder alone, and one that reads the row it predicts.
NO_ENCODER = {"PixelCNN encoder", "PixelCNN encoder and decoder"}
READ_ROWS = {"PixelCNN decoder", "PixelCNN encoder and decoder"}


def refusal(case: Case) -> str | None:
    """What the error says of a case that is not allowed; with several reasons, one of them."""
    found = []
    if case.spec.input_noise and case.likelihood in SET_VALUES:
        found.append("These columns hold set values .* to which no noise can be added; use objective='elbo'")
    if getattr(case.spec, "noise", None) == "gaussian" and case.likelihood in SET_VALUES:
        found.append("adds noise to the columns, and these hold set values .* use noise='mask'")
    if case.likelihood in ("categorical", "mixed") and (said := OF_MEANS.get(case.objective.split("(")[0])):
        found.append(said)
    if "levels" in case.objective and case.prior.startswith("vamp"):
        found.append("prior=.* is made of the encoder's latents, .* use prior='normal' or 'mixture', or levels=None")
    if case.network in NO_ENCODER:
        found.append("PixelCNN has no encoder; pass it as decoder=")
    if case.network in READ_ROWS and "density" not in case.spec.offers:
        found.append("trains no density, and decoder=.* would learn to copy. Use an objective with a density, or")
    return "|".join(found) or None


def covering(axes: list[list[str]], allowed: bool) -> list[Case]:
    """Cases, allowed or not, that hold every pair of members that any such case holds."""
    chosen: list[Case] = []
    covered: set[tuple[int, str, int, str]] = set()

    def new_pairs(case: Case) -> set[tuple[int, str, int, str]]:
        return {(i, case[i], j, case[j]) for i, j in combinations(range(len(axes)), 2)} - covered

    cases = [case for case in (Case(*names) for names in product(*axes)) if (refusal(case) is None) == allowed]
    for i, j in sorted(combinations(range(len(axes)), 2), key=lambda ij: -len(axes[ij[0]]) * len(axes[ij[1]])):
        alike: dict[tuple[str, str], list[Case]] = {}
        for case in cases:
            alike.setdefault((case[i], case[j]), []).append(case)
        for (a, b), candidates in alike.items():
            if (i, a, j, b) not in covered:
                chosen.append(max(candidates, key=lambda case: len(new_pairs(case))))
                covered |= new_pairs(chosen[-1])
    return chosen


# Settings of a member meet the other family's where they train a prior; of networks and likelihoods the member itself
# meets all.
OF_BOTH = [
    Case(o, p)
    for (o, objective), p in product(FAMILY["objective"].items(), FAMILY["prior"])
    if "prior" in objective.offers or "(" not in o + p or p == "normal"
]
AXES = [*([name for name in FAMILY[kind] if "(" not in name] for kind in FAMILY), list(ROLES), list(MEMBERS)]
IN_FULL = [case for case in OF_BOTH if refusal(case) is None]
COVERING = covering(AXES, allowed=True)
REFUSED = [*covering(AXES, allowed=False), *(case for case in OF_BOTH if refusal(case) is not None)]


def every(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


@cache
def fitted(case: Case) -> Any:
    return case.estimator().fit(case.rows, case.y)


def answers(vae: Any, X: np.ndarray) -> dict[str, np.ndarray]:
    """What every method that it has says, by name."""
    holes = np.where(np.arange(X.size).reshape(X.shape) % 7 == 3, np.nan, X)
    found = {"transform": vae.transform(X), "reconstruct": vae.reconstruct(X)}
    if not getattr(vae.module_.decoder, "reads_x", False):
        found["impute"] = vae.impute(holes)
    if hasattr(vae, "posterior"):
        found["posterior"] = np.stack(vae.posterior(X))
        found["latent_information_"] = vae.latent_information_
    if hasattr(vae, "sample"):
        found["sample"] = vae.sample(3, random_state=0)
    if hasattr(vae, "score_samples"):
        found["score_samples"] = vae.score_samples(X)
    return found


def saved(vae: Any) -> Any:
    """Saved and loaded: by pickle, and what that gave by skops, unless a user's module is part of it."""
    own = [value for value in vae.get_params().values() if isinstance(value, nn.Module)]
    loaded = pickle.loads(pickle.dumps(vae))
    return loaded if own else by_skops(loaded)


# Whoever is in a family is here


def test_every_member_of_a_family_is_among_the_cases():
    tried = {"objective": {type(m) for m in FAMILY["objective"].values()}}
    tried["prior"] = {type(m) for m in FAMILY["prior"].values()}
    tried["network"] = {networks.MLP, *(kind for kinds in ROLES.values() for kind in kinds.values())}
    for name, module, base in (
        ("objective", objectives, Objective),
        ("prior", priors, PriorSpec),
        ("network", networks, Network),
    ):
        public = {kind for other, kind in classes(module, base).items() if other not in NO_PARAMETER}
        assert public == tried[name]
    assert set(AXES[0]) >= set(OBJECTIVES)
    assert set(AXES[1]) >= set(PRIORS)
    public = {name for name in skvae.likelihoods.__all__ if name in skvae.__all__}
    # Counts of whole rows, and columns that nobody models, have suites of their own.
    assert {type(member).__name__ for member in MEMBERS.values()} == public - {"Multinomial", "Given"}


def test_settings_are_those_of_a_member_that_is_here():
    names = {*classes(objectives, Objective), *classes(priors, PriorSpec)}
    assert {*NEED, *ALSO} <= names
    assert {*NO_PARAMETER} <= set(priors.__all__)


def test_the_cases_hold_every_pair_of_members():
    """Those that are tried are few beside all, and each pair is allowed, or refused, in one of them."""
    for i, j in combinations(range(4), 2):
        assert set(product(AXES[i], AXES[j])) <= {(case[i], case[j]) for case in COVERING + REFUSED}
    assert all(refusal(case) is None for case in COVERING + IN_FULL)
    assert {case.objective for case in COVERING} == set(AXES[0])
    assert {case.network for case in REFUSED if case.network not in {c.network for c in COVERING}} == NO_ENCODER


# What is allowed


@every(list(dict.fromkeys(COVERING + IN_FULL)))
def test_two_epochs_leave_a_model_that_answers_is_saved_and_comes_again_bit_for_bit(case):
    vae, X = fitted(case), case.rows
    said = answers(vae, X)
    assert len(vae.loss_curve_) == 2
    assert np.isfinite(vae.loss_curve_).all()
    for name, values in said.items():
        assert np.isfinite(values).all(), name
    assert said["transform"].shape == (N, 2)
    assert said["reconstruct"].shape == X.shape
    assert_same(answers(saved(vae), X), said)
    twin = clone(vae)
    assert not hasattr(twin, "n_iter_")
    assert_same(answers(twin.fit(X, case.y), X), said)
    assert twin.history_ == vae.history_


@every(IN_FULL)
def test_partial_fit_goes_on_and_a_saved_model_goes_on_alike(case):
    X, y = case.rows, case.y
    vae = case.estimator().partial_fit(X, y)
    other = saved(vae).partial_fit(X, y)
    vae.partial_fit(X, y)
    assert vae.n_iter_ == len(vae.loss_curve_) == 2
    assert_same(answers(other, X), answers(vae, X))


@every(IN_FULL)
def test_a_search_tries_it_and_a_pipeline_holds_it(case):
    X, y = case.rows, case.y
    scoring = None if hasattr(case.estimator(), "score") else reconstruction_error
    pipeline = make_pipeline(FunctionTransformer(), case.estimator(max_iter=1))
    search = GridSearchCV(
        pipeline, {"vaetransformer__n_components": [1, 2]}, cv=ONE_FOLD, scoring=scoring, error_score="raise"
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = clone(pipeline).set_params(**search.best_params_).fit(X, y)
    np.testing.assert_array_equal(search.transform(X), best.transform(X))


@pytest.mark.parametrize("objective", [name for name in FAMILY["objective"] if "(" not in name])
@pytest.mark.parametrize("kind", ["detector", "search", "imputer"])
def test_the_other_estimators_hold_it_or_say_what_to_use(kind, objective):
    case = Case(objective, "normal")
    X, holes = case.rows, with_gaps(case.rows, 0.1)
    shared = {"objective": case.spec, "hidden_layer_sizes": (4,), "max_iter": 1, "n_draws": 4, "random_state": 0}
    made = {
        "detector": lambda: VAEAnomalyDetector(2, criterion="reconstruction", **shared).fit(X, case.y).score_samples(X),
        "search": lambda: VAETransformerCV((1, 2), cv=2, **shared).fit(X, case.y).transform(X),
        "imputer": lambda: VAEImputer(VAETransformer(2, **shared)).fit(holes).transform(holes),
    }
    lacks = {
        "search": "density" not in case.spec.offers and r"trains no density of X, .*; use GridSearchCV",
        "imputer": case.spec.target in ("row", "label") and "is trained towards y",
    }
    if message := lacks.get(kind):
        with pytest.raises(ValueError, match=message):
            made[kind]()
        return
    found = made[kind]()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(made[kind](), found)


# What is not


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_is_not_allowed_says_so_in_a_sentence_before_training(case):
    watcher = Watcher()
    vae = case.estimator().set_callbacks(watcher)
    with pytest.raises((TypeError, ValueError), match=refusal(case)) as caught:
        vae.fit(case.rows, case.y)
    assert "epoch" not in watcher.ended
    assert not hasattr(vae, "n_iter_")
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert len(said) < 400
