"""Docstrings follow numpydoc, and name the parameters and attributes that there are."""

import ast
import importlib
import inspect

import numpy as np
import pytest
from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import validate
from sklearn.datasets import load_wine

import skvae

# Codes of numpydoc that no docstring is held to, and why.
IGNORED = {
    "ES01": "a summary that says all needs no second paragraph",
    "RT02": "returned values are named, as scikit-learn's are",
    "SS02": "a summary may open with a formula: p(x|z)",
    "SS05": "numpydoc takes a summary that opens with a plural noun for a verb in the third person",
}
# Codes that only the classes of `skvae` itself are held to.
OF_PUBLIC_CLASSES = {
    "EX01": "a class's example shows its methods at work",
    "SA01": "a class's See Also stands for its methods",
}
# Codes that hold for what users call, but not for what extenders implement: tensors in, tensors out.
OF_DOORS = {
    "PR01": "arguments are annotated, and the summary says what they are",
    "RT01": "the summary says what is returned, and its shape",
    "YD01": "the summary says what is yielded",
}
FAMILIES = ["likelihoods", "networks", "objectives", "priors"]
CLASSES = [value for name in skvae.__all__ if callable(value := getattr(skvae, name))]
ESTIMATORS = [cls for cls in CLASSES if hasattr(cls, "fit")]


def members(cls):
    """Names of the public methods and properties that are described in skvae."""
    for name in dir(cls):
        owner = next(parent for parent in cls.__mro__ if name in vars(parent))
        member = getattr(cls, name)
        is_ours = owner.__module__.split(".")[0] == "skvae" and not name.startswith("_")
        is_callable = callable(member) or isinstance(member, property)
        # What takes its parent's place takes its parent's description too.
        is_inherited = member.__doc__ is None and any(hasattr(parent, name) for parent in owner.__mro__[1:])
        is_generated = name.endswith("_request")  # scikit-learn's, for sample weights in pipelines
        if is_ours and is_callable and not (inspect.isclass(member) or is_inherited or is_generated):
            yield name


def described(module):
    """Paths of a module's public classes, of their members, and of its functions."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            yield from (f"{module.__name__}.{name}.{member}" for member in members(value))
        if inspect.isclass(value) or inspect.isfunction(value):
            yield f"{module.__name__}.{name}"


def faults(path, *ignored):
    return [fault for fault in validate(path)["errors"] if not any(fault[0] in codes for codes in ignored)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_public_class(cls):
    assert not faults(f"skvae.{cls.__name__}", IGNORED)


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_methods_of_an_estimator(cls):
    found = {name: faults(f"skvae.{cls.__name__}.{name}", IGNORED, OF_PUBLIC_CLASSES) for name in members(cls)}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    "path",
    [
        path
        for name in ("export", "metrics", "plotting", "pooling")
        for path in described(importlib.import_module(f"skvae.{name}"))
    ],
)
def test_export_metrics_plotting_and_pooling(path):
    assert not faults(path, IGNORED, OF_PUBLIC_CLASSES)


@pytest.mark.parametrize(
    "path", [path for name in FAMILIES for path in described(importlib.import_module(f"skvae.{name}"))]
)
def test_members_of_a_family(path):
    assert not faults(path, IGNORED, OF_PUBLIC_CLASSES, OF_DOORS)


def documented(section):
    """Names of a docstring's section, in order."""
    return [name.strip("* ") for entry in section for name in entry.name.split(",")]


@pytest.mark.parametrize(
    "path",
    [
        *(f"{cls.__name__}.{name}" for cls in ESTIMATORS for name in members(cls)),
        *(cls.__name__ for cls in CLASSES),
        *(path.removeprefix("skvae.") for path in described(importlib.import_module("skvae.plotting"))),
        *(path.removeprefix("skvae.") for path in described(importlib.import_module("skvae.metrics"))),
        *(path.removeprefix("skvae.") for path in described(importlib.import_module("skvae.pooling"))),
        *(path.removeprefix("skvae.") for path in described(importlib.import_module("skvae.export"))),
    ],
)
def test_documented_parameters_are_the_signature(path):
    value = skvae
    for name in path.split("."):
        value = getattr(value, name) if inspect.ismodule(value) or inspect.isclass(value) else value
    if not callable(value):  # a property
        return
    doc = ClassDoc(value) if inspect.isclass(value) else FunctionDoc(value)
    assert documented(doc["Parameters"]) == [name for name in inspect.signature(value).parameters if name != "self"]


SPECS = {
    getattr(module, name): name
    for module in (importlib.import_module(f"skvae.{family}") for family in FAMILIES)
    for name in module.__all__
    if inspect.isclass(getattr(module, name)) and hasattr(getattr(module, name), "get_params")
}


@pytest.mark.parametrize("cls", [*dict.fromkeys([*ESTIMATORS, *SPECS])], ids=lambda cls: cls.__name__)
def test_documented_defaults_are_the_signatures(cls):
    parameters = inspect.signature(cls.__init__).parameters
    for entry in ClassDoc(cls)["Parameters"]:
        _, said, default = entry.type.partition("default=")
        for name in entry.name.split(", "):
            found = parameters[name].default
            assert said == ("" if found is inspect.Parameter.empty else "default="), name
            assert not said or ast.literal_eval(default) == found, name


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_fitted_attributes_are_documented_with_their_types(cls):
    settings = {
        "random_state": 0,
        "max_iter": 1,
        "likelihood": "gaussian",
        "n_components": [1, 2] if cls is skvae.VAETransformerCV else 2,
    }
    estimator = cls(**{name: value for name, value in settings.items() if name in cls._get_param_names()})
    with np.errstate(all="ignore"):
        estimator.fit(*load_wine(as_frame=True, return_X_y=True))
    # VAETransformerCV is a VAETransformer, and refers to it.
    parents = [parent for parent in cls.__mro__ if parent in ESTIMATORS]
    entries = [entry for parent in parents for entry in ClassDoc(parent)["Attributes"]]
    fitted = {name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")}
    assert fitted <= set(documented(entries))
    assert all(entry.type and entry.desc for entry in entries)


def test_ignored_codes_have_reasons():
    assert all(reason for codes in (IGNORED, OF_PUBLIC_CLASSES, OF_DOORS) for reason in codes.values())
