"""Devices, generators and threads: the only place that touches torch's settings.

Every setting is changed inside a scope that ends, and only for the calling thread where torch allows it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from threadpoolctl import ThreadpoolController
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = [
    "build_seeded",
    "double",
    "draw_seed",
    "exp_",
    "fast_log",
    "large_products",
    "make_generator",
    "namespace",
    "onednn_is_exact",
    "repays_a_thread",
    "resolve_device",
    "seed_from",
    "single_blas",
    "thread_limit",
    "torch_scope",
]

# Below this many multiply-adds in a layer's product, a second thread costs more than it brings.
SINGLE_THREAD_PRODUCT = 4_000_000
# From this many on, oneDNN's products are about a tenth faster than MKL's.
ONEDNN_PRODUCT = 40_000_000

# Functions that take a shape from a tensor and, in older versions of torch, no generator.
_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
_RANDOM_FUNCTIONS = {
    torch.Tensor.bernoulli_,
    torch.Tensor.exponential_,
    torch.Tensor.normal_,
    torch.Tensor.random_,
    torch.Tensor.uniform_,
    torch.normal,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
}


def resolve_device(name: str, told: bool = False) -> torch.device:
    """Return the device called `name`; "auto" takes CUDA where there is one.

    A model asked for CUDA or MPS on a machine without it runs on the CPU, with a warning unless its user has been
    `told`: the numbers are the same and a file saved on a larger machine stays usable.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"device={name!r} is not a device torch knows; use 'cpu', 'cuda', 'cuda:0', 'mps' or 'auto'."
        ) from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device.type not in available:
        raise ValueError(
            f"device={name!r} is not a device skvae runs on; use 'cpu', 'cuda', 'cuda:0', 'mps' or 'auto'."
        )
    if available[device.type]:
        return device
    if not told:
        warnings.warn(f"device={name!r} is not available on this machine: using the CPU.", stacklevel=2)
    return torch.device("cpu")


def draw_seed(random_state: Any) -> int:
    """A seed from what a user gave as `random_state`."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def seed_from(rng: torch.Generator) -> int:
    """A seed for another generator, drawn from this one."""
    return int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own, so that torch's global one is neither read nor moved."""
    return torch.Generator(device=device).manual_seed(int(seed))


class _Seeded(TorchFunctionMode):
    """Let every random function without a generator draw from ours (in this thread, in this scope).

    `torch.nn` layers initialise themselves from the global generator and take no other; this is the one way
    to seed a user's network without moving that generator (forking it is not thread-safe).
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _LIKE:
            kwargs.setdefault("dtype", args[0].dtype)
            func, args = _LIKE[func], (args[0].shape, *args[1:])
        # `torch.nn.init` functions come here whole, with a `generator` of None to fill in.
        if (func in _RANDOM_FUNCTIONS or "generator" in kwargs) and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


def build_seeded(build: Callable[[], nn.Module], generator: torch.Generator | None) -> Any:
    """Call `build()` with fresh weights from `generator`, on the CPU, whatever the caller's default device.

    Without a generator it is called on the "meta" device, where tensors have shapes and no memory.
    """
    if generator is None:
        with torch.device("meta"):
            return build()
    with torch.device("cpu"), _Seeded(generator):
        return build()


@contextmanager
def torch_scope(device: torch.device, grad: bool) -> Iterator[None]:
    """Plain torch: outside the caller's inference mode, autocast and default device, with gradients on or off."""
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(grad),
        torch.autocast("cpu", enabled=False),
        torch.autocast(device.type, enabled=False),
        # Naming a device costs time in every call, so it is done only where the default is not the CPU.
        nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"),
    ):
        yield


class _SharedScope:
    """A scope around a setting of the whole process, undone when the last one has ended.

    Scopes of several Python threads overlap: if each put back what it had found, the setting could stay changed.
    """

    def __init__(self, change: Callable[[], Callable[[], None]], only_main_thread: bool = False):
        self.change, self.only_main_thread = change, only_main_thread
        self.lock = threading.Lock()
        self.scopes = 0
        self.undo: Callable[[], None] = lambda: None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.only_main_thread and threading.current_thread() is not threading.main_thread():
            yield
            return
        with self.lock:
            if not self.scopes:
                self.undo = self.change()
            self.scopes += 1
        try:
            yield
        finally:
            with self.lock:
                self.scopes -= 1
                if not self.scopes:
                    self.undo()


@cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of the libraries loaded by now, torch's, numpy's and scipy's among them.

    Looking for them takes milliseconds, as long as a small fit's epoch.
    """
    return ThreadpoolController()


def _limit_blas() -> Callable[[], None]:
    return _thread_pools().limit(limits=1, user_api="blas").restore_original_limits


def _choose_onednn() -> Callable[[], None]:
    settings: Any = torch.backends.mkldnn
    before, settings.matmul.fp32_precision = settings.matmul.fp32_precision, "bf16"

    def undo() -> None:
        settings.matmul.fp32_precision = before

    return undo


# One thread in numpy's and scipy's BLAS: small eigenproblems take up to ten times as long on two. OpenBLAS heeds only
# the thread that was the first to set its number of threads, which is the main one.
single_blas = _SharedScope(_limit_blas, only_main_thread=True)
# Products by oneDNN in place of MKL.
_onednn_products = _SharedScope(_choose_onednn)


def large_products(largest_product: int) -> Any:
    """A scope in which float32 products of wide layers are oneDNN's, where those are faster and as exact as MKL's.

    torch asks oneDNN only when told that bfloat16 would do. A processor that has no bfloat16 products then multiplies
    in float32; one that has them would lose digits, so the digits are looked at first.
    """
    wide = largest_product >= ONEDNN_PRODUCT and hasattr(torch.backends.mkldnn, "matmul")
    return _onednn_products() if wide and onednn_is_exact() else nullcontext()


@cache
def onednn_is_exact() -> bool:
    """Whether products under `large_products` have float32's digits on this machine."""
    if not torch.backends.mkldnn.is_available():
        return False
    left, right = torch.randn(2, 256, 256, generator=make_generator(0), dtype=torch.float32, device="cpu")
    exact = left.double() @ right.double()
    with _onednn_products():
        error = float(((left @ right).double() - exact).abs().max())
    return error < 1e-3  # about 3e-5 in float32, 0.2 in bfloat16


def thread_limit(largest_product: int | None) -> Any:
    """A scope with one thread where no layer's product repays a second; only ever downwards, then restored.

    None leaves the threads as they are.
    """
    limit: Any = None if largest_product is None or repays_a_thread(largest_product) else 1
    return _thread_pools().limit(limits=limit, user_api="openmp")


def repays_a_thread(largest_product: int) -> bool:
    """Whether a layer of so many multiply-adds is large enough for a second thread."""
    return largest_product >= SINGLE_THREAD_PRODUCT


def fast_log(values: torch.Tensor) -> torch.Tensor:
    """The logarithm, without a gradient: numpy's is three times as fast as torch's on the CPU."""
    return torch.from_numpy(np.log(values.numpy())) if values.is_cpu else values.log()


def exp_(values: torch.Tensor) -> torch.Tensor:
    """The exponential, in place: numpy's takes half of torch's time on the CPU, and knows no gradient."""
    if values.is_cpu and not values.requires_grad and not torch.compiler.is_exporting():
        np.exp(array := values.numpy(), out=array)
        return values
    return values.exp_()


def namespace(values: Any) -> Any:
    """numpy or torch: the module whose functions take `values`."""
    return np if isinstance(values, np.ndarray) else torch


def double(values: Any) -> Any:
    """In double precision, where the device has it: a tensor or a numpy array."""
    if isinstance(values, torch.Tensor):
        return values if values.device.type == "mps" else values.double()
    return values.astype(np.float64)
