"""fit and partial_fit: determinism, stopping, warnings, and the text of every error at the door."""

import copy
import datetime
import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Breaks, Reconstruction, make
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from skvae import ELBO, IWAE, MLP, Gaussian, VAETransformer
from skvae._fit import FitSettings, learn_columns, prepare
from skvae._training.solvers import SOLVERS

POOR = "ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning"  # few epochs from random weights
METHODS = ["transform", "posterior", "reconstruct", "impute", "score_samples", "score"]


def same_model(first, second, X):
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.sample(5, random_state=0), second.sample(5, random_state=0))


# Determinism


@pytest.mark.parametrize("parameters", [{}, {"init": "random"}, {"hidden_layer_sizes": (8, 4)}, {"objective": "iwae"}])
@pytest.mark.filterwarnings(POOR)
def test_one_seed_gives_the_same_bits(iris, parameters):
    vae = make(**parameters).fit(iris)
    same_model(make(**parameters).fit(iris), vae, iris)
    same_model(clone(vae).fit(iris).fit(iris), vae, iris)


@pytest.mark.filterwarnings(POOR)
def test_one_seed_gives_the_same_bits_whatever_the_global_generators_hold(iris):
    states = torch.get_rng_state(), np.random.get_state()
    first = make(init="random", max_iter=20).fit(iris)
    torch.rand(3), np.random.rand(3)
    same_model(make(init="random", max_iter=20).fit(iris), first, iris)
    torch.set_rng_state(states[0]), np.random.set_state(states[1])


@pytest.mark.filterwarnings(POOR)
def test_another_seed_gives_another_model(iris):
    first, second = (make(early_stopping=False, random_state=seed).fit(iris).transform(iris) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.filterwarnings(POOR)
def test_a_random_state_instance_is_consumed(iris):
    rng = np.random.RandomState(0)
    first, second = (make(random_state=rng, early_stopping=False).fit(iris).transform(iris) for _ in range(2))
    again = make(random_state=np.random.RandomState(0), early_stopping=False).fit(iris).transform(iris)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)


# What is chosen for the user


def test_n_components_auto_holds_nine_tenths_of_the_variance(iris, digits):
    assert make(n_components="auto").fit(iris).n_components_ == 2
    assert make(n_components="auto").fit(digits).n_components_ <= 32
    assert make(n_components="auto").fit(np.random.RandomState(0).randn(40, 1)).n_components_ == 1


@pytest.mark.parametrize(("batch_size", "steps"), [("auto", 5), (10, 15), (40, 4), (1, 150), (150, 1), (10**9, 1)])
def test_batch_size_sets_the_steps_of_an_epoch(iris, batch_size, steps):
    taken = []

    def counted(parameters):
        optimiser = torch.optim.Adam(parameters, lr=1e-6)
        optimiser.register_step_post_hook(lambda *_: taken.append(1))
        return optimiser

    make(batch_size=batch_size, solver=counted, max_iter=1, early_stopping=False).fit(iris)
    assert len(taken) == steps


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_lowers_the_loss(wine, solver):
    vae = make(solver=solver, init="random", max_iter=15, early_stopping=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        vae.fit(wine)
    assert vae.loss_curve_[-1] < vae.loss_curve_[0] - 0.05


def test_a_callable_solver_gets_the_parameters_and_sets_its_own_rate(iris):
    vae = make(solver=lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True), learning_rate_init=5.0)
    same_model(vae.fit(iris), make().fit(iris), iris)


def test_verbose_prints_some_twenty_lines_or_one_an_epoch(iris, capsys):
    make(verbose=1, max_iter=50, n_iter_no_change=99).fit(iris)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[VAETransformer] 135 training rows"
    assert [int(line.split()[2].split("/")[0]) for line in lines[1:]] == [1, *range(2, 51, 2)]
    stopped = make(verbose=1, max_iter=1000).fit(iris)
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[2].split("/")[0]) for line in lines[-2:]] == [50, stopped.n_iter_]
    loss, held_out = (float(lines[-1].split(word)[1].split()[0]) for word in ("  loss", "held-out loss"))
    assert loss == pytest.approx(stopped.loss_curve_[-1], abs=1e-3)
    assert held_out == pytest.approx(-stopped.validation_curve_[-1], abs=1e-3)
    assert "kl" not in lines[-1]
    vae = make(verbose=2, max_iter=3).fit(iris)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[VAETransformer] 135 training rows, gradients by dense engine"
    assert len(lines) - 1 == vae.n_iter_ == 3
    assert lines[1].startswith("[VAETransformer] epoch 1/3  loss ")
    assert "held-out" in lines[1]
    make(max_iter=3).fit(iris)
    assert capsys.readouterr().out == ""


# Early stopping


@pytest.mark.filterwarnings(POOR)
@pytest.mark.parametrize(("n_rows", "held_out"), [(19, False), (20, True)])
def test_auto_holds_rows_out_from_twenty_on(iris, n_rows, held_out):
    assert bool(make(early_stopping="auto").fit(iris[:n_rows]).validation_curve_) == held_out


def test_the_start_has_not_seen_the_rows_that_judge_it(iris):
    settings = FitSettings.of(make(early_stopping=True), torch.device("cpu"))
    reader, X = learn_columns(settings, iris)
    prepared = prepare(reader, reader.first_rows(X, None, None, settings.objective), settings)
    x = prepared.training.x.double().numpy()
    assert len(x) + len(prepared.held_out) == len(iris)
    np.testing.assert_allclose(prepared.cov.matrix, x.T @ x / len(x), rtol=1e-12)


def test_the_best_epoch_is_kept_the_start_included(wine):
    vae = make(max_iter=12, learning_rate_init=0.05, n_iter_no_change=3).fit(wine)
    assert len(vae.validation_curve_) == vae.n_iter_ + 1
    assert vae.best_iter_ == np.argmax(vae.validation_curve_)
    assert len(vae.loss_curve_) == vae.n_iter_


def test_training_stops_after_n_iter_no_change_epochs_without_a_better_one(wine):
    vae = make(max_iter=100, learning_rate_init=0.05, n_iter_no_change=2).fit(wine)
    assert vae.n_iter_ == vae.best_iter_ + 2
    endless = make(max_iter=12, learning_rate_init=0.05, n_iter_no_change=np.inf).fit(wine)
    assert endless.n_iter_ == 12


def test_without_early_stopping_every_epoch_runs_and_the_last_is_kept(wine):
    vae = make(max_iter=7, early_stopping=False).fit(wine)
    assert (vae.n_iter_, vae.best_iter_, vae.validation_curve_) == (7, 7, [])


def test_patience_waits_for_the_warm_up(wine):
    vae = make(objective=ELBO(warmup=10), max_iter=12, learning_rate_init=0.05, n_iter_no_change=1).fit(wine)
    assert vae.n_iter_ >= 11


def test_two_rows_are_too_few_to_hold_one_out(iris):
    with pytest.raises(ValueError, match=r"The validation set is too small: validation_fraction=0\.1 of 2 rows is 0"):
        make(early_stopping=True).fit(iris[:2])


def test_early_stopping_needs_something_to_watch(iris):
    assert make(objective=Reconstruction()).fit(iris).validation_curve_ == []
    with pytest.raises(ValueError, match="early_stopping=True needs a number to watch, which Reconstruction lacks"):
        make(objective=Reconstruction(), early_stopping=True).fit(iris)


# Divergence


@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_that_diverge_later_are_rolled_back(iris, early_stopping):
    vae = make(solver=lambda p: Breaks(p, after=6), batch_size=150, max_iter=20, early_stopping=early_stopping)
    with pytest.warns(ConvergenceWarning, match="the loss was not finite in epoch 7; the weights of epoch . are kept"):
        vae.fit(iris)
    assert vae.n_iter_ == 6
    assert np.isfinite(vae.loss_curve_).all()
    assert np.isfinite(vae.score_samples(iris)).all()


def test_rolled_back_weights_are_those_of_the_last_finite_epoch(iris):
    with pytest.warns(ConvergenceWarning):
        broken = make(solver=lambda p: Breaks(p, after=3), batch_size=150, early_stopping=False).fit(iris)
    whole = make(solver=lambda p: torch.optim.Adam(p, lr=1e-5), batch_size=150, early_stopping=False, max_iter=3)
    same_model(broken, whole.fit(iris), iris)


def test_divergence_in_the_first_epoch_is_an_error_and_keeps_the_previous_model(iris):
    vae = make().fit(iris)
    before = vae.score_samples(iris)
    with pytest.raises(ValueError, match=r"diverged in its first epoch at learning_rate_init=1e\+30"):
        vae.set_params(learning_rate_init=1e30, batch_size=10, init="random").fit(iris)
    np.testing.assert_array_equal(vae.score_samples(iris), before)


def test_a_step_too_large_never_leaves_an_unusable_model_in_silence(iris):
    """One step per epoch: the damage of epoch 1 shows in the loss of epoch 2 only."""
    vae = make(learning_rate_init=1e30, batch_size=150, early_stopping=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            vae.fit(iris)
        except ValueError as error:
            if "learning_rate_init" not in str(error):
                raise
        else:
            assert np.isfinite(vae.score(iris))


def test_defaults_give_no_warning(iris, wine, digits):
    for X in (iris, wine, digits, iris[:20], iris[:19], iris[::30]):
        assert np.isfinite(VAETransformer(random_state=0).fit(X).score(X))


@pytest.mark.parametrize("max_iter", [1, 2])
def test_ending_below_the_linear_model_is_a_warning(wine, max_iter):
    with pytest.warns(ConvergenceWarning, match=r"nats per row, below the -?[\d.]+ of the linear model of the same"):
        make(init="random", max_iter=max_iter).fit(wine)


# partial_fit


def test_partial_fit_continues_and_improves_the_bound(wine):
    vae = make(init="random", learning_rate_init=0.01)
    assert vae.partial_fit(wine) is vae
    first, scale = vae.score(wine), vae.scale_
    for _ in range(15):
        vae.partial_fit(wine[:100]).partial_fit(wine[100:])
    assert vae.score(wine) > first + 1
    assert vae.n_iter_ == len(vae.loss_curve_) == 31
    np.testing.assert_array_equal(vae.scale_, scale)


def test_partial_fit_keeps_the_scale_of_the_first_chunk(wine):
    vae = make().partial_fit(wine[:60])
    np.testing.assert_allclose(vae.mean_, wine[:60].mean(axis=0))
    np.testing.assert_array_equal(vae.partial_fit(wine[60:]).mean_, make().partial_fit(wine[:60]).mean_)


def test_a_later_chunk_is_read_in_the_units_of_the_first(iris):
    """Of weights that do not move, its loss is what they say of it in those units."""
    vae = make(learning_rate_init=1e-12, hidden_layer_sizes=()).partial_fit(iris)
    other = 2 * iris - 1
    expected = vae.score(other)
    assert expected < vae.score(iris) - 2
    assert -vae.partial_fit(other).loss_curve_[-1] == pytest.approx(expected, abs=0.5)


def test_partial_fit_holds_no_rows_out(wine):
    assert make(early_stopping=True).partial_fit(wine[:2]).validation_curve_ == []


def test_partial_fit_continues_a_fit(wine):
    vae = make(early_stopping=False).fit(wine)
    assert vae.partial_fit(wine).n_iter_ == 6
    assert len(vae.loss_curve_) == 6


def test_fit_forgets_what_partial_fit_did(wine):
    same_model(make().partial_fit(wine).fit(wine), make().fit(wine), wine)


def test_partial_fit_goes_on_from_a_shortened_history(wine):
    vae, twin = (make().partial_fit(wine).partial_fit(wine) for _ in range(2))
    vae.history_ = {name: values[-1:] for name, values in vae.history_.items()}
    same_model(vae.partial_fit(wine), twin.partial_fit(wine), wine)
    assert (vae.n_iter_, len(vae.loss_curve_)) == (3, 2)
    assert vae.history_ == {name: values[1:] for name, values in twin.history_.items()}


def test_partial_fit_is_deterministic(wine):
    same_model(make().partial_fit(wine).partial_fit(wine), make().partial_fit(wine).partial_fit(wine), wine)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("n_components", 3, "n_components"),
        ("hidden_layer_sizes", (5,), "encoder and decoder"),
        ("activation", "tanh", "encoder and decoder"),
        ("likelihood", Gaussian(noise="shared"), "likelihood"),
        ("objective", "iwae", "objective"),
    ],
)
def test_partial_fit_refuses_another_model(wine, name, value, told):
    vae = make().partial_fit(wine)
    before = vae.transform(wine)
    with pytest.raises(ValueError, match=f"{told} changed since the first partial_fit"):
        vae.set_params(**{name: value}).partial_fit(wine)
    np.testing.assert_array_equal(vae.transform(wine), before)


def test_partial_fit_takes_another_solver(wine):
    vae = make().partial_fit(wine)
    assert np.isfinite(vae.set_params(solver="sgd").partial_fit(wine).score(wine))
    assert np.isfinite(vae.set_params(solver="adam", learning_rate_init=1e-4).partial_fit(wine).score(wine))


def test_partial_fit_checks_its_parameters_every_time(wine):
    vae = make().partial_fit(wine)
    with pytest.raises(InvalidParameterError, match="batch_size"):
        vae.set_params(batch_size=-1).partial_fit(wine)


def test_partial_fit_refuses_another_width(wine):
    vae = make().partial_fit(wine)
    with pytest.raises(ValueError, match="X has 12 features, but VAETransformer is expecting 13 features"):
        vae.partial_fit(wine[:, 1:])


# Parameters: rules hold at fit, not in the constructor

BAD_PARAMETERS = [
    ("n_components", [0, -1, 1.5, True, np.True_, "all", None, np.nan]),
    ("likelihood", ["poison", Gaussian, None, 3]),
    ("objective", ["vae", ELBO, None]),
    ("hidden_layer_sizes", [2.5, None]),
    ("activation", ["RELU", 1, None]),
    ("encoder", ["mlp", 3]),
    ("decoder", ["mlp", 3]),
    ("init", ["zeros", None]),
    ("max_iter", [0, -1, 2.0, True, np.inf, None]),
    ("batch_size", [0, 2.5, True, "all"]),
    ("solver", ["lbfgs", None, 1]),
    ("learning_rate_init", [0, -1.0, np.nan, "auto", None]),
    ("early_stopping", ["yes", 1, None]),
    ("validation_fraction", [0, 1, 1.5, np.nan]),
    ("n_iter_no_change", [0, 2.5, True, -np.inf, np.nan]),
    ("n_draws", [0, 2.5, True]),
    ("random_state", [-1, np.random.default_rng(0), "0"]),
    ("verbose", [-1, "loud"]),
    ("device", [None, torch.device("cpu"), 0]),
]


@pytest.mark.parametrize(("name", "values"), BAD_PARAMETERS, ids=[name for name, _ in BAD_PARAMETERS])
def test_a_bad_parameter_is_an_error_in_fit_and_not_before(iris, name, values):
    for value in values:
        vae = VAETransformer(**{name: value})
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of VAETransformer must be"):
            vae.fit(iris)
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of VAETransformer must be"):
            vae.partial_fit(iris)


@pytest.mark.parametrize(
    "part",
    [
        {"objective": ELBO(beta=-1)},
        {"objective": ELBO(kl="exact")},
        {"objective": ELBO(warmup=1.5)},
        {"objective": ELBO(free_bits=np.nan)},
        {"objective": IWAE(0)},
        {"objective": IWAE(True)},
        {"objective": ELBO(n_draws=True)},
        {"likelihood": Gaussian("none")},
        {"likelihood": Gaussian(noise_floor=0)},
        {"encoder": MLP(activation="RELU")},
    ],
    ids=repr,
)
def test_a_bad_parameter_of_a_part_is_an_error_in_fit(iris, part):
    with pytest.raises(InvalidParameterError, match="parameter of (ELBO|IWAE|Gaussian|MLP) must be"):
        make(**part).fit(iris)


@pytest.mark.parametrize("sizes", [(0,), (-3,), (10, 0), (2.5,), ("a",), "ab", (True,), ((3, 4),)], ids=repr)
def test_a_bad_layer_size_is_a_clear_error(iris, sizes):
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        make(hidden_layer_sizes=sizes).fit(iris)


@pytest.mark.parametrize("sizes", [[4], np.array([4]), (np.int64(4),), pd.Series([4])], ids=repr)
def test_layer_sizes_are_any_sequence_of_integers(iris, sizes):
    same_model(make(hidden_layer_sizes=sizes).fit(iris), make(hidden_layer_sizes=(4,)).fit(iris), iris)


def test_numpy_integers_are_integers(iris):
    whole = {"n_components": 2, "max_iter": 5, "batch_size": 50, "n_iter_no_change": 3, "n_draws": 8, "random_state": 0}
    same_model(
        VAETransformer(**{k: np.int64(v) for k, v in whole.items()}).fit(iris), VAETransformer(**whole).fit(iris), iris
    )


def test_an_unknown_device_is_a_clear_error(iris):
    with pytest.raises(ValueError, match="device='gpu' is not a device torch knows"):
        make(device="gpu").fit(iris)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_that_is_no_module_is_a_clear_error(iris, part):
    with pytest.raises(TypeError, match="must return a torch.nn.Module; it returned int"):
        make(**{part: lambda n_in, n_out: n_in}).fit(iris)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_of_the_wrong_width_is_a_clear_error(iris, part):
    with pytest.raises(ValueError, match=part):
        make(**{part: nn.utils.skip_init(nn.Linear, 4, 7)}).fit(iris)


def test_two_players_cannot_share_a_parameter(iris):
    class Shared(Reconstruction):
        def players(self, model):
            return 2 * super().players(model)

    with pytest.raises(ValueError, match=r"Shared\.players gives one parameter to two players"):
        make(objective=Shared()).fit(iris)


# Data: what is refused, and in which words

X3 = np.random.RandomState(0).permutation(90).reshape(30, 3) / 1.0
MARKED = np.arange(90).reshape(30, 3) == 7  # column 1, row 2

BAD_DATA = {
    "inf": (np.where(MARKED, np.inf, X3), ValueError, "Input X contains infinity: column 1, row 2"),
    "-inf": (np.where(MARKED, -np.inf, X3), ValueError, "Input X contains infinity: column 1, row 2"),
    "inf in a named column": (
        pd.DataFrame(np.where(MARKED, np.inf, X3), columns=["a", "b", "c"]),
        ValueError,
        "infinity: column 'b', row 2",
    ),
    "no rows": (X3[:0], ValueError, "0 sample"),
    "no columns": (X3[:, :0], ValueError, "0 feature"),
    "no value in a column": (
        np.where([False, True, False], np.nan, X3),
        ValueError,
        "column 1 holds no value in 30 rows",
    ),
    "1-D": (X3[:, 0], ValueError, "Expected 2D array, got 1D array"),
    "3-D": (X3[None], ValueError, "dim 3"),
    "scalar": (3.0, ValueError, "Expected 2D array, got scalar"),
    "complex": (X3 + 1j, ValueError, "Complex data not supported"),
    "strings": (np.full((30, 3), "a"), ValueError, "could not convert string to float"),
    "objects": (np.full((30, 3), {}, dtype=object), TypeError, "argument must be .* a real number"),
    "dates": (X3.astype("datetime64[s]"), ValueError, "X holds dates or time spans"),
    "time spans": (X3.astype("timedelta64[s]"), ValueError, "X holds dates or time spans"),
    "a column of dates": (
        pd.DataFrame({"a": X3[:, 0], "b": [datetime.datetime(2020, 1, 1)] * 30}),
        ValueError,
        "holds dates or time spans",
    ),
    "requires_grad": (torch.tensor(X3, requires_grad=True), TypeError, "requires_grad=True; pass X.detach"),
    "bfloat16": (torch.tensor(X3, dtype=torch.bfloat16), TypeError, "torch.bfloat16 .* pass X.detach"),
    "None": (None, ValueError, "Expected 2D array, got scalar|None"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_data_are_refused_and_leave_no_trace(case, method):
    X, error, words = BAD_DATA[case]
    vae = make()
    with pytest.raises(error, match=words):
        getattr(vae, method)(X)
    assert vars(vae) == vars(make())


def test_a_value_outside_the_support_names_its_column(binary):
    X = binary.copy()
    X[5, 3] = 7.0
    with pytest.raises(ValueError, match=r"column 3 holds 7.0; likelihood='bernoulli' takes values in \[0, 1\]"):
        make(likelihood="bernoulli").fit(X)
    vae = make(likelihood="bernoulli").fit(binary)
    for method in METHODS:
        with pytest.raises(ValueError, match="column 3 holds 7.0"):
            getattr(vae, method)(X)


def test_a_named_column_outside_the_support_is_named(binary):
    X = pd.DataFrame(binary).add_prefix("pixel")
    X.loc[2, "pixel9"] = -0.5
    with pytest.raises(ValueError, match="column 'pixel9' holds -0.5"):
        make(likelihood="bernoulli").fit(X)


@pytest.mark.parametrize("method", METHODS)
def test_another_width_is_refused(iris, method):
    vae = make().fit(iris)
    with pytest.raises(ValueError, match="X has 3 features, but VAETransformer is expecting 4 features as input"):
        getattr(vae, method)(iris[:, :3])


@pytest.mark.parametrize("method", [*METHODS, "inverse_transform"])
def test_before_fit_every_method_says_so(iris, method):
    with pytest.raises(NotFittedError, match="This VAETransformer instance is not fitted yet"):
        getattr(make(), method)(iris)


def test_before_fit_sample_names_and_module_say_so(iris):
    for call in (lambda vae: vae.sample(), lambda vae: vae.get_feature_names_out()):
        with pytest.raises(NotFittedError):
            call(make())
    with pytest.raises(AttributeError, match="is not fitted yet"):
        _ = make().module_


def test_a_failed_first_fit_leaves_the_estimator_unfitted(iris):
    vae = make(early_stopping=True)
    with pytest.raises(ValueError, match="validation set is too small"):
        vae.fit(iris[:2])
    with pytest.raises(NotFittedError):
        vae.transform(iris)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.full(30, -1.0), "Negative"),
        (np.full(30, np.nan), "NaN"),
        (np.full(30, np.inf), "infinity"),
        (np.zeros(30), "zero"),
        (np.ones(29), "shape"),
        (np.ones((30, 1)), "1D"),
    ],
    ids=["negative", "nan", "inf", "zero", "length", "2-D"],
)
def test_bad_weights_are_refused(weight, words):
    with pytest.raises(ValueError, match=words):
        make().fit(X3, sample_weight=weight)


@pytest.mark.parametrize("container", [torch.tensor, pd.DataFrame, np.asfortranarray, lambda X: X.tolist()])
def test_any_container_of_numbers_gives_the_same_model(iris, container):
    vae = make().fit(container(iris))
    np.testing.assert_array_equal(vae.transform(container(iris)), make().fit(iris).transform(iris))


def test_a_masked_cell_is_a_missing_cell(iris):
    hidden = np.random.RandomState(0).rand(*iris.shape) < 0.1
    masked, gaps = np.ma.masked_array(iris, hidden), np.where(hidden, np.nan, iris)
    vae = make().fit(masked)
    same_model(vae, make().fit(gaps), gaps)
    np.testing.assert_array_equal(vae.transform(masked), vae.transform(gaps))


# Company


# With two latents by quadrature, with four by draws, which all rows and calls share.
either_rule = pytest.mark.parametrize("n_components", [2, 4])


@either_rule
@pytest.mark.parametrize("method", ["transform", "score_samples", "reconstruct", "impute"])
def test_a_row_s_numbers_do_not_depend_on_its_company(wine, method, n_components):
    # Away from the linear start, whose score is the same at any points.
    vae = make(n_components=n_components, early_stopping=False, learning_rate_init=1e-2, max_iter=20).fit(wine)
    call = getattr(vae, method)
    whole = call(wine)
    order = np.random.RandomState(0).permutation(len(wine))
    gaps, far = np.full((3, 13), np.nan), np.full((3, 13), 1e6)
    np.testing.assert_allclose(call(wine[order]), whole[order], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(call(wine[7:8]), whole[7:8], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(call(np.vstack([gaps, far, wine]))[6:], whole, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(call(np.vstack([wine] * 20))[-178:], whole, rtol=1e-7, atol=1e-9)


@either_rule
def test_the_same_call_gives_the_same_bits(wine, n_components):
    vae = make(n_components=n_components, early_stopping=False, learning_rate_init=1e-2, max_iter=20).fit(wine)
    np.testing.assert_array_equal(vae.score_samples(wine), vae.score_samples(wine))
    np.testing.assert_array_equal(vae.transform(wine), vae.transform(wine))


def test_too_few_rows_to_hold_out_keep_the_linear_start():
    X = np.random.default_rng(0).normal(size=(19, 4)) @ np.random.default_rng(1).normal(size=(4, 6))
    few = VAETransformer(2, random_state=0).fit(X)
    assert (few.n_iter_, few.best_iter_, few.validation_curve_) == (1, 0, [])
    start = VAETransformer(2, random_state=0, early_stopping=False, max_iter=1, learning_rate_init=1e-12).fit(X)
    np.testing.assert_allclose(few.score_samples(X), start.score_samples(X), rtol=1e-5)
    with pytest.warns(ConvergenceWarning, match="below the .* of the linear model"):
        trained = VAETransformer(2, random_state=0, early_stopping=False, max_iter=7).fit(X)
    assert trained.best_iter_ == 7


@pytest.mark.parametrize("as_frame", [True, False])
def test_a_string_cell_is_named_with_the_way_out(iris, as_frame):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(iris[:, :3], columns=["a", "b", "c"]).assign(species="setosa")
    X, name = (frame, "'species'") if as_frame else (frame.to_numpy(dtype=object), "3")
    with pytest.raises(ValueError, match=f"column {name} holds 'setosa'.*likelihood='auto'"):
        VAETransformer(2).fit(X)


def test_an_unknown_name_is_refused_in_fit_and_breaks_nothing_before(iris):
    vae = VAETransformer(2, likelihood="gausian", objective="elboo")
    assert "gausian" in repr(vae)
    assert hasattr(vae, "score")
    with pytest.raises(ValueError, match="'likelihood' parameter"):
        vae.fit(iris)


def test_partial_fit_counts_epochs_on_for_an_objective_that_changes_with_them(iris):
    vae = VAETransformer(1, objective=ELBO(beta=2.0, warmup=4), random_state=0)
    for _ in range(5):
        vae.partial_fit(iris)
    terms = {name: np.array(values) for name, values in vae.history_.items()}
    beta = (terms["loss"] + terms["reconstruction"]) / terms["kl"]
    np.testing.assert_allclose(beta, [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-4)


@pytest.mark.parametrize(("before", "after"), [("adam", "rmsprop"), ("sgd", "adam"), ("adam", "sgd")])
def test_another_solver_may_follow_in_partial_fit(iris, before, after):
    vae = VAETransformer(1, solver=before, random_state=0).partial_fit(iris)
    vae.set_params(solver=after).partial_fit(iris)
    assert vae.n_iter_ == 2
    assert np.isfinite(vae.score(iris))


class _WithMask(nn.Module):
    """A layer with a buffer of booleans and one of infinities, as attention masks are."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)
        self.register_buffer("mask", torch.ones(n_out, dtype=torch.bool))
        self.register_buffer("far", torch.full((1,), -np.inf))

    def forward(self, x):
        return self.layer(x) * self.mask


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_network_may_hold_masks(iris):
    vae = VAETransformer(1, encoder=_WithMask, max_iter=2, random_state=0).fit(iris)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vae)).transform(iris), vae.transform(iris))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_float64_network_is_taken(iris):
    network = partial(nn.Linear, dtype=torch.float64)
    assert VAETransformer(1, encoder=network, max_iter=2, random_state=0).fit(iris).transform(iris).shape == (150, 1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_network_may_be_made_from_another_fitted_model(iris):
    first = VAETransformer(1, max_iter=2, random_state=0).fit(iris)
    again = VAETransformer(
        1, decoder=lambda n_in, n_out: copy.deepcopy(first.module_.decoder).float(), max_iter=2, random_state=0
    )
    assert again.fit(iris).inverse_transform(again.transform(iris)).shape == iris.shape


def test_diagnostics_stand_for_the_whole_of_a_sorted_table(monkeypatch):
    monkeypatch.setattr("skvae._fit.DIAGNOSTIC_ROWS", 50)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1)) @ rng.normal(size=(1, 5)) + 0.1 * rng.normal(size=(400, 5))
    X = X[np.argsort(X[:, 0])]
    vae = VAETransformer(1, max_iter=2, random_state=0).fit(X)
    shuffled = VAETransformer(1, max_iter=2, random_state=0).fit(rng.permutation(X))
    np.testing.assert_allclose(vae.latent_information_, shuffled.latent_information_, rtol=0.1)
    assert vae.active_components_.tolist() == [True]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian("decoder")])
def test_rows_with_gaps_too_far_out_are_refused_or_least_likely(iris, likelihood):
    vae = VAETransformer(
        2, likelihood=likelihood, max_iter=5, early_stopping=False, learning_rate_init=1e-2, random_state=0
    ).fit(iris)
    far = iris[:3].copy()
    far[1, :2] = np.nan, 1e200
    assert vae.score_samples(far)[1] == -np.inf
    with pytest.raises(ValueError, match="Row 1 of X is too far"):
        vae.impute(far)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("noise", ["feature", "shared"])
def test_every_solver_works_at_its_defaults(iris, solver, noise):
    vae = VAETransformer(2, solver=solver, likelihood=Gaussian(noise), max_iter=5, random_state=0).fit(iris)
    assert max(vae.validation_curve_) < 10
    assert np.isfinite(vae.loss_curve_).all()


def test_a_cell_unlike_all_others_does_not_end_training():
    """In this fold a pixel that is 0 in the rows trained on is not in one that is held out."""
    X = np.delete(load_digits().data, np.s_[:360], axis=0)
    vae = VAETransformer("auto", max_iter=15, random_state=0).fit(X)
    assert vae.best_iter_ > 10
    assert vae.best_iter_ == np.argmax(vae.validation_curve_)
