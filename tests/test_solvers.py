"""Adam against torch's own, and what the other names stand for."""

import copy

import pytest
import torch
from helpers import seeded
from torch import nn

from skvae._training.solvers import LARGEST_SGD_GRADIENT, SOLVERS, Adam, BoundedSGD

SHAPES = [(7,), (3, 5), (), (2, 3, 4), (129,)]
DTYPES = [torch.float32, torch.float64]


def make_params(shapes, dtype=torch.float32):
    rng = seeded(1)
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape in shapes]


def walk(solvers, many_params, n_steps, seed=0):
    """The same gradients for all: of changing size and sign, some of them 0."""
    rng = seeded(seed)
    for number in range(n_steps):
        for params in zip(*many_params, strict=True):
            grad = torch.randn(params[0].shape, generator=rng, dtype=params[0].dtype) * 10.0 ** (number % 7 - 4)
            grad = grad * (torch.rand(grad.shape, generator=rng) > 0.2)
            for p in params:
                p.grad = grad.clone()
        for solver in solvers:
            solver.step()


@pytest.mark.parametrize("lr", [1e-3, 0.1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adam_is_torchs_fused_adam(dtype, lr):
    own, theirs = make_params(SHAPES, dtype), make_params(SHAPES, dtype)
    walk([Adam(own, lr), torch.optim.Adam(theirs, lr=lr, fused=True)], [own, theirs], 60)
    for p, expected, start in zip(own, theirs, make_params(SHAPES, dtype), strict=True):
        assert p.dtype == dtype
        assert torch.equal(p, expected)
        assert (p - start).abs().max() > 0.1 * lr


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adam_is_the_published_rule(dtype):
    """Algorithm 1 of Kingma & Ba, as torch's plain implementation and as written here."""
    own, theirs, by_hand = (make_params(SHAPES, dtype) for _ in range(3))
    lr, rng = 0.01, seeded()
    solvers = Adam(own, lr), torch.optim.Adam(theirs, lr=lr, foreach=False, fused=False)
    m, v = ([torch.zeros_like(p, dtype=torch.float64) for p in by_hand] for _ in range(2))
    for t in range(1, 41):
        for i, p in enumerate(by_hand):
            grad = torch.randn(p.shape, generator=rng, dtype=dtype)
            own[i].grad, theirs[i].grad = grad.clone(), grad.clone()
            m[i], v[i] = 0.9 * m[i] + 0.1 * grad, 0.999 * v[i] + 0.001 * grad**2
            p.data -= (lr * (m[i] / (1 - 0.9**t)) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-8)).to(dtype)
        for solver in solvers:
            solver.step()
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for p, expected, written in zip(own, theirs, by_hand, strict=True):
        torch.testing.assert_close(p, expected, **tolerance)
        torch.testing.assert_close(p, written, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_columns", [1, 13, 64])
def test_a_matrix_is_moved_row_by_row(dtype, n_columns):
    (matrix,) = make_params([(5, n_columns)], dtype)
    rows = [nn.Parameter(row.clone()) for row in matrix.detach()]
    whole, singles, rng = Adam([matrix], 0.02), [Adam([row], 0.02) for row in rows], seeded()
    for _ in range(25):
        matrix.grad = torch.randn(matrix.shape, generator=rng, dtype=dtype)
        for row, grad in zip(rows, matrix.grad, strict=True):
            row.grad = grad.clone()
        for solver in (whole, *singles):
            solver.step()
    torch.testing.assert_close(matrix.detach(), torch.stack([row.detach() for row in rows]), rtol=1e-6, atol=1e-7)


def test_adam_moves_the_tensors_it_was_given_in_place():
    """A player's parameters are views into the one vector its solver has."""
    vector = nn.Parameter(torch.ones(6))
    view = vector.data[2:4]
    vector.grad = torch.ones(6)
    Adam([vector], 0.1).step()
    torch.testing.assert_close(view, torch.full((2,), 0.9))


@pytest.mark.parametrize("other", ["own", "torch"])
def test_adam_goes_on_from_a_saved_state(other):
    straight, first = make_params(SHAPES), make_params(SHAPES)
    reference, solver = Adam(straight, 0.01), Adam(first, 0.01)
    walk([reference], [straight], 9)
    walk([solver], [first], 9)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    saved = solver.state_dict()
    if other == "own":
        resumed = Adam(second, 0.01)
        resumed.load_state_dict(saved)
    else:  # torch's names, so that either can read what the other wrote
        resumed = torch.optim.Adam(second, lr=0.01, fused=True)
        resumed.load_state_dict({**resumed.state_dict(), **copy.deepcopy(saved)})
    walk([solver], [first], 3, seed=5)  # what was loaded is a copy: this must not reach it
    walk([reference], [straight], 11, seed=7)
    walk([resumed], [second], 11, seed=7)
    for p, expected in zip(second, straight, strict=True):
        assert torch.equal(p, expected)


def test_adam_reads_what_torch_saved():
    straight, own = make_params(SHAPES), make_params(SHAPES)
    reference = torch.optim.Adam(straight, lr=0.01, fused=True)
    walk([reference], [straight], 9)
    solver = Adam(own, 0.01)
    solver.load_state_dict(reference.state_dict())
    for p, expected in zip(own, straight, strict=True):
        p.data.copy_(expected)
    walk([reference, solver], [straight, own], 9, seed=2)
    for p, expected in zip(own, straight, strict=True):
        assert torch.equal(p, expected)


def test_a_state_counts_its_steps():
    params = make_params([(3,)])
    solver = Adam(params, 0.01)
    walk([solver], [params], 4)
    (state,) = solver.state_dict()["state"].values()
    assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert float(state["step"]) == 4
    assert state["exp_avg"].shape == (3,)


def test_an_infinite_gradient_stays_in_its_own_row():
    (matrix,) = make_params([(3, 8)])
    before = matrix.detach().clone()
    matrix.grad = torch.ones(3, 8)
    matrix.grad[1] = torch.inf
    Adam([matrix], 0.1).step()
    assert not matrix[1].isfinite().any()
    torch.testing.assert_close(matrix.detach()[[0, 2]], before[[0, 2]] - 0.1)


@pytest.mark.parametrize("size", [1e-3, 0.5, 1e6])
def test_plain_descent_bounds_the_gradient_and_nothing_below(size):
    param = nn.Parameter(torch.zeros(4))
    solver = BoundedSGD([param], 0.1)
    for step in (1.9, 1.9 + 2.71):  # Nesterov: g + 0.9 buffer, where the buffer is 1 g, then 1.9 g
        param.grad = torch.full((4,), size / 2)  # of norm `size`
        solver.step()
        expected = 0.1 * step * min(size, LARGEST_SGD_GRADIENT)
        assert float(param.detach().norm()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_name_goes_downhill(name):
    param = nn.Parameter(torch.tensor([3.0, -2.0]))
    solver = SOLVERS[name]([param], lr=0.05)
    for _ in range(200):
        param.grad = 2 * param.detach()
        solver.step()
    assert float(param.detach().norm()) < 2.0
