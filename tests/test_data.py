from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import column_moments
from sklearn.preprocessing import StandardScaler

from skvae._tables.batches import Batch, to_rows
from skvae._tables.containers import unpack_container
from skvae._tables.moments import ColumnSums, Scale, reduce_blocks
from skvae._torch import make_generator


def test_moments_are_those_of_standard_scaler(wine):
    scaler = StandardScaler().fit(wine)
    moments = column_moments(wine)
    np.testing.assert_allclose(moments.mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(moments.std, scaler.scale_, rtol=1e-12)
    assert not moments.constant.any()


def test_weighted_moments_are_those_of_repeated_rows(wine):
    weight = np.random.RandomState(0).randint(0, 4, len(wine))
    weighted, repeated = column_moments(wine, weight.astype(float)), column_moments(np.repeat(wine, weight, axis=0))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.std, repeated.std, rtol=1e-12)


def test_moments_ignore_missing_cells(wine):
    X = wine.copy()
    X[np.random.RandomState(0).rand(*X.shape) < 0.3] = np.nan
    moments = column_moments(X)
    np.testing.assert_allclose(moments.mean, np.nanmean(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, np.nanstd(X, axis=0), rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-307, 1e-160, 1e39, 1e200, 1e305])
def test_moments_follow_any_scale(iris, factor):
    plain, scaled = column_moments(iris), column_moments(iris * factor)
    np.testing.assert_allclose(scaled.mean / factor, plain.mean, rtol=1e-9)
    np.testing.assert_allclose(scaled.std / factor, plain.std, rtol=1e-9)
    assert not scaled.constant.any()


def test_moments_take_denormal_numbers_for_numbers(iris):
    moments = column_moments(np.round(iris * 10) * 5e-324)
    assert not moments.constant.any()
    assert (moments.std > 0).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, -3e200, 1e-300])
def test_a_column_of_one_value_is_constant_and_keeps_its_value(value):
    moments = column_moments(np.full((49, 1), value))
    assert moments.constant.all()
    assert moments.std == 0
    assert moments.mean == value


def test_noise_within_rounding_of_a_large_offset_is_constant():
    noise = np.random.RandomState(0).randn(100, 1)
    assert column_moments(1e12 + 1e-4 * noise).constant.all()
    assert not column_moments(1e12 + 1e3 * noise).constant.any()


def test_offset_does_not_eat_the_deviation():
    X = 1e8 + np.random.RandomState(0).randn(1000, 1)
    np.testing.assert_allclose(column_moments(X).std, np.std(X - 1e8), rtol=1e-6)


def test_moments_leave_their_input_alone(iris):
    X = iris.copy()
    X.setflags(write=False)
    column_moments(X, np.ones(len(X)))
    np.testing.assert_array_equal(X, iris)


def cut(*values):
    """Blocks of uneven sizes: none of the rows, one, many."""
    ends = [0, 0, 1, 30, 31, len(values[0])]
    return [tuple(v[a:b] for v in values) for a, b in pairwise(ends)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factor", [1e-307, 1.0, 1e305])
def test_sums_of_blocks_add_up_to_those_of_all_rows(wine, factor, weighted):
    rng = np.random.default_rng(0)
    X = np.where(rng.random(wine.shape) < 0.3, np.nan, wine * factor)
    X[:, 1], X[:40, 2], X[40:, 2] = np.nan, 0.0, 1e-300  # without a value; orders of magnitude apart
    weight = rng.integers(3, size=len(X)) * 0.7 if weighted else np.ones(len(X))
    found, whole = reduce_blocks(cut(X, weight), lambda block: ColumnSums.of(*block)), ColumnSums.of(X, weight)
    assert found.n_rows == whole.n_rows == (weight > 0).sum()
    assert found.empty.tolist() == whole.empty.tolist() == [column == 1 for column in range(13)]
    for name in ("low", "high", "exponent"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    np.testing.assert_allclose(found.mass, whole.mass, rtol=1e-14)
    for mine, other in zip(found.moments, whole.moments, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)


def test_rows_of_weight_0_do_not_count(iris):
    weight = np.arange(len(iris)) % 3.0
    some, kept = ColumnSums.of(iris, weight), ColumnSums.of(iris[weight > 0], weight[weight > 0])
    assert some.low.tolist() == kept.low.tolist()
    assert some.moments.mean.tolist() == kept.moments.mean.tolist()
    assert some.n_rows == 100


def test_partial_sums_may_be_tuples_of_numbers_and_arrays():
    total, squares = reduce_blocks(range(4), lambda i: (i, np.full(2, i**2)))
    assert total == 6
    assert squares.tolist() == [14, 14]


def test_scale_there_and_back(wine):
    scale = Scale(wine.mean(axis=0), wine.std(axis=0))
    np.testing.assert_allclose(scale.to_data(scale.to_model(wine)), wine, rtol=1e-12)


def test_scale_turns_what_float64_cannot_hold_into_infinity():
    scale = Scale(np.zeros(1), np.full(1, 1e-300))
    assert scale.to_model(np.array([[1e300]])) == np.inf


def test_rows_hold_zero_and_a_mask_where_a_cell_is_missing():
    rows = to_rows(np.array([[1.0, np.nan], [3.0, 4.0]]), Scale(np.ones(2), np.full(2, 2.0)))
    assert rows.x.tolist() == [[0.0, 0.0], [1.0, 1.5]]
    assert rows.mask.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert rows.x.dtype == rows.mask.dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_rows_are_a_copy_whatever_the_units(dtype, shift):
    X = np.array([[1.0, np.nan], [3.0, 4.0]], dtype=dtype)
    before = X.copy()
    rows = to_rows(X, Scale(np.full(2, shift), np.ones(2)))
    assert rows.x.dtype == torch.float32
    np.testing.assert_array_equal(rows.x.numpy(), np.where(np.isnan(X), 0, X - shift))
    rows.x.fill_(9.0)
    np.testing.assert_array_equal(X, before)


def test_rows_without_gaps_need_no_mask(iris):
    assert to_rows(iris, Scale(np.zeros(4), np.ones(4))).mask is None


@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 32), (10, 10), (33, 32), (100, 32), (7, 1), (65, 64)])
def test_batches_are_even_and_drop_no_row(n_rows, batch_size):
    rows = Batch(torch.arange(float(n_rows))[:, None])
    batches = list(rows.batches(batch_size, make_generator(0)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-n_rows // batch_size)
    assert sorted(torch.cat([batch.x for batch in batches]).ravel().tolist()) == list(range(n_rows))


def test_batches_carry_what_belongs_to_a_row():
    numbers = torch.arange(20.0)
    rows = Batch(numbers[:, None], mask=numbers[:, None] + 100, weight=numbers + 200, y=numbers + 300)
    for batch in rows.batches(6, make_generator(0)):
        assert torch.equal(batch.mask, batch.x + 100)
        assert torch.equal(batch.weight, batch.x[:, 0] + 200)
        assert torch.equal(batch.y, batch.x[:, 0] + 300)


def test_batches_are_shuffled_anew_by_their_generator_alone():
    rows, rng = Batch(torch.arange(50.0)[:, None]), make_generator(0)
    first, second = (torch.cat([b.x for b in rows.batches(10, rng)]) for _ in range(2))
    again = torch.cat([b.x for b in rows.batches(10, make_generator(0))])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_blocks_keep_the_order():
    rows = Batch(torch.arange(10.0)[:, None])
    blocks = list(rows.blocks(4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert torch.equal(torch.cat([block.x for block in blocks]), rows.x)


def test_mean_is_weighted_and_lets_scalars_pass():
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
    plain, weighted = Batch(torch.zeros(3, 2)), Batch(torch.zeros(3, 2), weight=torch.tensor([0.5, 2.0, 0.5]))
    assert plain.mean(values).tolist() == [3.0, 30.0]
    assert weighted.mean(values).tolist() == [2.5, 25.0]
    assert weighted.mean(torch.tensor(4.0)) == 4.0


def test_a_masked_cell_is_a_missing_one():
    X = np.ma.masked_array([[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    np.testing.assert_array_equal(unpack_container(X), [[1.0, np.nan], [3.0, 4.0]])


def test_a_cpu_tensor_is_an_array():
    X = torch.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(unpack_container(X), X.numpy())


@pytest.mark.parametrize(
    "X",
    [
        torch.ones(3, 2, requires_grad=True),
        torch.ones(3, 2, dtype=torch.bfloat16),
        torch.ones(3, 2, device="meta"),
    ],
    ids=["requires_grad", "bfloat16", "meta"],
)
def test_a_tensor_numpy_cannot_read_is_a_clear_error(X):
    with pytest.raises(TypeError, match=r"pass X\.detach\(\)\.cpu\(\)\.float\(\)"):
        unpack_container(X)
