from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from skvae._torch import (
    SINGLE_THREAD_PRODUCT,
    build_seeded,
    make_generator,
    resolve_device,
    single_blas,
    thread_limit,
    torch_scope,
)


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_resolve_device_takes_a_name_torch_knows(name):
    assert resolve_device(name).type == "cpu"


def test_resolve_device_auto_takes_cuda_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "meta"])
def test_resolve_device_refuses_a_name_it_cannot_use(name):
    with pytest.raises(ValueError, match="is not a device"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_resolve_device_falls_back_to_the_cpu_and_says_so():
    with pytest.warns(UserWarning, match="device='cuda' is not available"):
        assert resolve_device("cuda").type == "cpu"


def test_make_generator_is_set_by_its_seed_alone():
    first, second = (torch.randn(5, generator=make_generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(5, generator=make_generator(4)))


def _layers():
    layer = nn.Linear(4, 3)
    layer.register_buffer("drawn", torch.cat([torch.randn(4), torch.rand(4), torch.randperm(4).float()]))
    nn.init.xavier_normal_(layer.weight)
    return layer


def test_build_seeded_gives_the_same_weights_for_the_same_seed():
    first, second, other = (build_seeded(_layers, make_generator(seed)) for seed in (0, 0, 1))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


def test_build_seeded_does_not_move_the_global_generator():
    before = torch.get_rng_state()
    build_seeded(_layers, make_generator(0))
    assert torch.equal(before, torch.get_rng_state())


def test_build_seeded_without_a_generator_takes_no_memory():
    layer = build_seeded(lambda: nn.Linear(10**6, 10**6), None)
    assert layer.weight.is_meta
    assert layer.weight.shape == (10**6, 10**6)


def test_build_seeded_is_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        assert build_seeded(_layers, make_generator(0)).weight.device.type == "cpu"


@pytest.fixture
def two_threads():
    with threadpool_limits(2, user_api="openmp"):
        yield


@pytest.mark.usefixtures("two_threads")
def test_thread_limit_holds_inside_its_scope_only():
    with thread_limit(SINGLE_THREAD_PRODUCT - 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_thread_limit_leaves_large_products_all_threads():
    with thread_limit(SINGLE_THREAD_PRODUCT):
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_thread_limit_is_lifted_after_an_error():
    with pytest.raises(RuntimeError), thread_limit(1):
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_thread_limit_never_goes_upwards():
    with threadpool_limits(1, user_api="openmp"), thread_limit(10 * SINGLE_THREAD_PRODUCT):
        assert torch.get_num_threads() == 1


def test_torch_scope_gives_plain_torch_inside_any_caller():
    with torch.inference_mode(), torch.autocast("cpu"), torch_scope(torch.device("cpu"), grad=True):
        weight = torch.ones(2, 2, requires_grad=True)
        product = weight @ weight
        product.sum().backward()
    assert product.dtype == torch.float32
    np.testing.assert_array_equal(weight.grad, np.full((2, 2), 4.0))


# A limit on BLAS belongs to the process, whichever Python thread asks for it.


def blas_threads():
    """Of every BLAS in the process: numpy and scipy bring one each."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_blas_threads():
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


@pytest.mark.usefixtures("two_blas_threads")
def test_single_blas_holds_inside_its_scope_only():
    for _ in range(2):
        with single_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_single_blas_ends_with_the_outermost_scope():
    with single_blas():
        with single_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_single_blas_is_lifted_after_an_error():
    with pytest.raises(RuntimeError), single_blas(), single_blas():
        raise RuntimeError
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("last_out", ["main", "other"])
def test_single_blas_may_overlap_in_two_threads(last_out):
    """Other threads leave the limit alone: some builds of OpenBLAS ignore what they ask for."""
    inside, may_leave = Event(), Event()

    def other():
        with single_blas():
            inside.set()
            assert may_leave.wait(30)

    with ThreadPoolExecutor(1) as pool:
        try:
            with single_blas():
                held = pool.submit(other)
                assert inside.wait(30)
                assert blas_threads() == {1}
                if last_out == "main":
                    may_leave.set()
                    held.result(30)
                    assert blas_threads() == {1}
        finally:
            may_leave.set()
        held.result(30)
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_single_blas_survives_many_threads():
    def use(_):
        with single_blas():
            return blas_threads()

    with ThreadPoolExecutor(8) as pool:
        with single_blas():
            assert all(threads == {1} for threads in pool.map(use, range(64)))
        assert blas_threads() == {2}
        list(pool.map(use, range(64)))
    assert blas_threads() == {2}
