"""Fitted models as ONNX graphs, which run without torch and without skvae."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from torch import Tensor, nn

from ._base import BaseVAE
from ._inference.criteria import as_one
from ._inference.posterior import posterior
from ._inference.scores import weighed
from ._onnx import translations
from ._tables.batches import Batch
from ._torch import torch_scope
from ._version import __version__
from .anomaly import VAEAnomalyDetector

__all__ = ["to_onnx"]


def __dir__() -> list[str]:
    return __all__


# The version of the operators.
OPSET = 18


def to_onnx(estimator: BaseVAE | Pipeline, path: str | PathLike[str], method: str = "transform") -> None:
    """Write one method of a fitted estimator as an ONNX file, for runtimes without Python.

    The graph takes complete rows as float64 and holds the scaling of the columns. It computes what the method does
    where it takes one pass through the networks: a missing cell (NaN) makes the row's results NaN, and `score_samples`
    is the sum over the points of q(z|x) alone, without the search that rows call for which the encoder does not know
    well (a lower bound there). Categories are numbers: their place in the list that the file's metadata hold.

    Parameters
    ----------
    estimator : VAETransformer, VAETransformerCV, VAEAnomalyDetector, VAEClassifier or Pipeline
        Fitted, with networks that `torch.export` can trace. Of a pipeline the last step is one of these, and skl2onnx
        converts those before it.
    path : str or path-like
        Where to write.
    method : str, default="transform"
        What the graph computes: "transform", "inverse_transform", "reconstruct", "score_samples" or
        "decision_function", where the estimator has it.

    Raises
    ------
    ImportError
        If a package is missing: onnx and onnxscript, or skl2onnx for a pipeline (all in the extra "onnx").
    ValueError
        If the estimator is none of these or has no such method, or its decoder reads the row it predicts.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Notes
    -----
    The input is called "X" and the output as the method, with the number of rows free. Metadata: "skvae" (the version),
    "method", "columns" (names, where `fit` saw some) and "categories" (lists by column number), in JSON.

    References
    ----------
    The ONNX format: https://onnx.ai

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.export import to_onnx
    >>> vae = VAETransformer(2, max_iter=5, random_state=0).fit(load_iris().data)
    >>> to_onnx(vae, "iris.onnx")  # doctest: +SKIP
    >>> import onnxruntime  # doctest: +SKIP
    >>> onnxruntime.InferenceSession("iris.onnx").run(None, {"X": load_iris().data})[0].shape  # doctest: +SKIP
    (150, 2)
    """
    steps, last = _parted(estimator)
    _refuse(last, method, estimator)
    found = _exported(last, method)
    if steps is not None:
        found = _behind(steps, found)
    _package("onnx").save(found, fspath(path))


def _parted(estimator: Any) -> tuple[Any, Any]:
    """The steps before the last, and that; None where there are none."""
    if not isinstance(estimator, Pipeline):
        return None, estimator
    steps = [(name, step) for name, step in estimator.steps[:-1] if step is not None and step != "passthrough"]
    return Pipeline(steps) if steps else None, estimator.steps[-1][1]


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"to_onnx needs {name}: pip install skvae[onnx].") from error


def _exported(estimator: BaseVAE, method: str) -> Any:
    """The graph as an ONNX model."""
    model = estimator._fitted()
    n_inputs = model.n_components if method == "inverse_transform" else len(model.scale.scale)
    example = torch.zeros(3, n_inputs, dtype=torch.float64, device="cpu")
    with torch_scope(torch.device("cpu"), grad=False), _quietly():
        program = torch.onnx.export(
            _Graph(estimator, method),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n_samples", min=1)},),
            input_names=["X"],
            output_names=[method],
            opset_version=OPSET,
            custom_translation_table=translations(),
            verbose=False,
        )
    assert program is not None
    names = getattr(estimator, "feature_names_in_", None)
    categories = {str(column): list(map(str, values)) for column, values in model.schema.categories.items()}
    told = {"columns": None if names is None else list(names), "categories": categories}
    program.model.metadata_props.update(
        {"skvae": __version__, "method": method, **{name: json.dumps(value) for name, value in told.items()}}
    )
    return program.model_proto


def _behind(steps: Pipeline, found: Any) -> Any:
    """The graph behind these steps of a pipeline."""
    onnx, skl2onnx = _package("onnx"), _package("skl2onnx")
    numbers = skl2onnx.common.data_types.DoubleTensorType([None, steps.n_features_in_])
    before = skl2onnx.to_onnx(steps, initial_types=[("X", numbers)], target_opset=OPSET)
    before.ir_version = found.ir_version
    before = onnx.compose.add_prefix(before, "steps_", rename_inputs=False)
    found = onnx.compose.add_prefix(found, "last_", rename_outputs=False)
    return onnx.compose.merge_models(before, found, io_map=[(before.graph.output[0].name, found.graph.input[0].name)])


def _refuse(estimator: Any, method: str, whole: Any) -> None:
    """Raise where there is nothing to export."""
    if not isinstance(estimator, BaseVAE):
        raise ValueError(
            "to_onnx takes a fitted VAETransformer, VAEAnomalyDetector or VAEClassifier, or a Pipeline that ends with "
            f"one, not {whole!r}; of an imputer, export `estimator_`."
        )
    specs = estimator._fitted().specs
    having = [name for name in _METHODS if hasattr(estimator, name)]
    if method not in having:
        raise ValueError(f"method={method!r} must be one that this {type(estimator).__name__} has: {having}.")
    if whole is not estimator and method == "inverse_transform":
        raise ValueError(
            "method='inverse_transform' of a pipeline would undo its other steps too; export its last step."
        )
    if getattr(specs["decoder"], "reads_x", False) and method != "transform":
        raise ValueError(
            f"decoder={specs['decoder']!r} reads the row it predicts, pixel by pixel; only method='transform' can be "
            "exported."
        )
    if method == "inverse_transform" and estimator.module_.n_given:
        raise ValueError("This model is given some columns beside the latents; export method='reconstruct', of rows.")
    for name in ("onnx", "onnxscript"):
        _package(name)


class _Graph(nn.Module):
    """One method as a function of a tensor in data units."""

    def __init__(self, estimator: BaseVAE, method: str):
        super().__init__()
        fitted, inference = estimator._fitted(), estimator._inference()
        # A module of its own: its tensors are traced, and it lies on the CPU.
        self.model = fitted.rebuilt(torch.float64).eval().requires_grad_(False)
        self.order = torch.as_tensor(np.asarray(fitted.order), device="cpu")
        self.constant = None if fitted.scale.constant is None else torch.as_tensor(fitted.scale.constant, device="cpu")
        self.rule = inference.rule.to(torch.device("cpu"))
        self.of = _METHODS[method]
        if isinstance(estimator, VAEAnomalyDetector):
            self.normality, self.offset = estimator._normality(), float(estimator.offset_)
            self.view = self.normality.view(inference)
            if method == "score_samples":
                self.of, self.offset = _decision, 0.0

    def forward(self, X: Tensor) -> Tensor:
        return self.of(self, X)

    def decoded(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Means of p(x|z), in data units, of latents in training order and what is given of rows x."""
        X = self.model.units.to_data(self.model.mean(z, x if self.model.n_given else None))
        return X if self.constant is None else torch.where(self.constant.isnan(), X, self.constant)


def _transform(graph: _Graph, X: Tensor) -> Tensor:
    return graph.model.encode_mean(graph.model.units.to_model(X)).index_select(1, graph.order)


def _inverse_transform(graph: _Graph, Z: Tensor) -> Tensor:
    return graph.decoded(Z.index_select(1, graph.order.argsort()))


def _reconstruct(graph: _Graph, X: Tensor) -> Tensor:
    x = graph.model.units.to_model(X)
    return graph.decoded(graph.model.encode_mean(x), x)


def _score_samples(graph: _Graph, X: Tensor) -> Tensor:
    rows = Batch(graph.model.units.to_model(X))
    _, log_weight = weighed(graph.model, rows, posterior(graph.model, rows), graph.rule.eps)
    return torch.logsumexp(log_weight + graph.rule.log_weight, dim=0)


def _decision(graph: _Graph, X: Tensor) -> Tensor:
    """The detector's score less the threshold."""
    rows = Batch(graph.model.units.to_model(X))
    view = graph.view._replace(known=graph.view.codes.nearest_own(graph.model.encode_mean(rows.x)))
    found = as_one(graph.normality.criterion, graph.normality.criterion_weights.tolist())(graph.model, rows, view)
    return found.sum(dim=1) - graph.offset


_METHODS: dict[str, Callable[[_Graph, Tensor], Tensor]] = {
    "transform": _transform,
    "inverse_transform": _inverse_transform,
    "reconstruct": _reconstruct,
    "score_samples": _score_samples,
    "decision_function": _decision,
}


@contextmanager
def _quietly() -> Any:
    """Without the exporter's own words, which name its insides."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
