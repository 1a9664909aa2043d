"""A likelihood for every column: chosen by the user, or by what the column holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from .._linear import LinearGaussian
from .._params import named
from .._schema import ColumnFacts, Schema, column_facts, select_columns
from ..data import Array, Moments, Scale, SomeColumns, Walk
from ._base import Cells, Density, Likelihood, NLLGradient, as_arrays
from ._bernoulli import Bernoulli, ContinuousBernoulli
from ._categorical import Categorical
from ._counts import NegativeBinomial, Poisson
from ._gaussian import Gaussian
from ._robust import Laplace, StudentT
from ._warped import JohnsonSU, LogNormal

__all__ = ["LIKELIHOODS", "Auto", "Mixed", "described", "fits_schema", "resolved"]

# Nats a cell by which a log-normal distribution must describe a column better to be chosen.
LOG_GAIN = 0.05
# Whole numbers beyond this mean are counts where their variance is so many times the mean: the columns beside it may
# explain much of it, and no count's noise is below its mean.
LARGE_MEAN, LARGE_SPREAD = 30.0, 3.0


class Mixed(Likelihood):
    """p(x|z) with a likelihood of its own for every column: numbers, counts, yes or no, and categories in one table.

    Parameters
    ----------
    members : sequence of (likelihood, columns)
        A likelihood's name or an instance, and its columns: names, numbers, a slice, a mask, or a callable such as
        `sklearn.compose.make_column_selector`. A column may be in one member only.
    remainder : str, Likelihood or None, default=None
        The likelihood of columns that no member names; "auto" chooses by their values, as `likelihood="auto"` does.
        None: every column must be named.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer, Mixed
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.normal(size=200), rng.integers(3, size=200), rng.poisson(4, size=200)])
    >>> mixed = Mixed([("gaussian", [0]), ("categorical", [1]), ("poisson", [2])])
    >>> VAETransformer(1, likelihood=mixed, random_state=0).fit(X).likelihood_
    Mixed(members=[('gaussian', [0]), (Categorical(n_categories=[3]), [1]), ('poisson', [2])])
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {"members": ["array-like"], "remainder": [None, str, Likelihood]}

    def __init__(self, members, *, remainder=None):
        self.members = members
        self.remainder = remainder

    def _validate_params(self) -> None:
        super()._validate_params()
        for member in self.members:
            if not isinstance(member, (tuple, list)) or len(member) != 2:
                raise ValueError(f"Mixed takes pairs of a likelihood and its columns; it holds {member!r}.")
            _member(member[0])._validate_params()
        if self.remainder is not None:
            _member(self.remainder)._validate_params()

    def assign(self, X: Any) -> list[tuple[Likelihood, list[int] | None]]:
        self._validate_params()
        found = [(_member(member), select_columns(X, columns)) for member, columns in self.members]
        owner: dict[int, Likelihood] = {}
        for member, columns in found:
            for column in columns:
                if column in owner:
                    raise ValueError(
                        f"Mixed gives {Schema.of(X).label(column)} to both {owner[column]!r} and {member!r}; name it "
                        "once."
                    )
                owner[column] = member
        rest = [column for column in range(X.shape[1]) if column not in owner]
        if rest and self.remainder is None:
            raise ValueError(
                f"Mixed has no likelihood for {Schema.of(X).label(rest[0])}; name the column, or set remainder='auto'."
            )
        if rest:
            found.append((_member(self.remainder), rest))
        return [
            pair
            for member, columns in found
            if columns
            for pair in (member.choose(X, columns) if isinstance(member, Auto) else [(member, columns)])
        ]

    def scale(self, moments: Moments) -> Scale:
        shift, scale = np.zeros_like(moments.mean), np.ones_like(moments.mean)
        for member, columns in self.members:
            part = _member(member).scale(Moments(*(values[columns] for values in moments)))
            shift[columns], scale[columns] = part
        return Scale(shift, scale)

    def build(self, n_features: int, scale: Scale) -> Density:
        parts = []
        for member, columns in self.members:
            own = Scale(scale.shift[columns], scale.scale[columns])
            parts.append((_member(member).build(len(columns), own), columns))
        return _MixedDensity(parts)

    def check(self, X: Array, names: Sequence[str]) -> None:
        for member, columns in self.members:
            _member(member).check(X[:, columns], [names[column] for column in columns])


class Auto(Likelihood):
    """A likelihood for every column by its type and values; the fitted estimator's `likelihood_` says which.

    - anything but numbers (strings, pandas categories): :class:`Categorical`
    - True and False, 0 and 1: :class:`Bernoulli`
    - whole numbers from 0 on whose variance exceeds their mean, three times if that is above 30:
      :class:`NegativeBinomial`
    - positive numbers that are closer to a log-normal distribution than to a normal one: :class:`LogNormal`
    - other numbers: :class:`Gaussian`

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.normal(size=200), rng.random(200) < 0.3, rng.exponential(size=200) ** 3])
    >>> VAETransformer(1, likelihood="auto", random_state=0).fit(X).likelihood_
    Mixed(members=[('gaussian', [0]), ('bernoulli', [1]), ('log_normal', [2])])
    """

    __module__ = "skvae"

    def assign(self, X: Any) -> list[tuple[Likelihood, list[int] | None]]:
        found = self.choose(X, list(range(X.shape[1])))
        # Real columns alone need no Mixed; others would refuse the input noise that a Mixed spares them.
        return [(found[0][0], None)] if len(found) == 1 and isinstance(found[0][0], (Gaussian, LogNormal)) else found

    def choose(self, X: Any, columns: list[int]) -> list[tuple[Likelihood, list[int] | None]]:
        """The likelihoods of these columns."""
        facts = column_facts(X)
        chosen: dict[type[Likelihood], list[int]] = {}
        for column in columns:
            chosen.setdefault(_best(facts[column]), []).append(column)
        return [(kind(), chosen[kind]) for kind in chosen]

    def scale(self, moments: Moments) -> Scale:
        raise NotImplementedError("Auto chooses likelihoods in fit; it is none itself.")

    def build(self, n_features: int, scale: Scale) -> Density:
        raise NotImplementedError("Auto chooses likelihoods in fit; it is none itself.")


def _best(facts: ColumnFacts) -> Any:
    """The class that suits a column."""
    if facts.is_category:
        return Categorical
    if facts.whole and facts.low >= 0:
        if facts.high <= 1:
            return Bernoulli
        spread = facts.std**2 / max(facts.mean, np.finfo(float).tiny)
        if spread > LARGE_SPREAD or (spread > 1 and facts.mean < LARGE_MEAN):
            return NegativeBinomial
    return LogNormal if facts.log_gain > LOG_GAIN else Gaussian


LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "auto": Auto,
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "johnson_su": JohnsonSU,
    "laplace": Laplace,
    "log_normal": LogNormal,
    "negative_binomial": NegativeBinomial,
    "poisson": Poisson,
    "student_t": StudentT,
}


def _member(value: Any) -> Likelihood:
    """A likelihood by its name, or itself."""
    found = named(value, LIKELIHOODS)
    if not isinstance(found, Likelihood) or isinstance(found, Mixed):
        raise ValueError(f"Mixed holds {value!r} where a likelihood is wanted; use one of {sorted(LIKELIHOODS)}.")
    return found


class _MixedDensity(Density):
    """The members' densities side by side: outputs and inputs in the order of members, x in the order of columns."""

    def __init__(self, parts: list[tuple[Density, list[int]]]):
        densities = [density for density, _ in parts]
        order = [column for _, columns in parts for column in columns]
        super().__init__(len(order), sum(d.n_params for d in densities), sum(d.n_inputs for d in densities))
        self.members = nn.ModuleList(densities)
        self.register_buffer("order", torch.tensor(order, device="cpu"), persistent=False)
        self.register_buffer("place", torch.tensor(np.argsort(order), device="cpu"), persistent=False)
        self.n_each = {
            "columns": [density.n_features for density in densities],
            "params": [density.n_params for density in densities],
            "inputs": [density.n_inputs for density in densities],
        }

    members: Any
    order: Tensor  # the columns as the members have them
    place: Tensor  # where each column stands among them

    @property
    def takes_noise(self) -> bool:  # type: ignore[override]
        """Columns of set values are passed over."""
        return True

    @property
    def smooths_seen(self) -> bool:  # type: ignore[override]
        """Noise comes in the order of columns, and not for all."""
        return False

    @property
    def states_gradient(self) -> bool:
        return all(member.states_gradient for member in self.members)

    def _parts(self, kind: str, values: Tensor) -> Any:
        """Each member with its part of values, which hold the members' side by side."""
        return zip(self.members, values.split(self.n_each[kind], dim=-1), strict=True)

    def _columns(self, x: Tensor) -> Sequence[Tensor]:
        """Every member's columns of x."""
        return x.index_select(-1, self.order).split(self.n_each["columns"], dim=-1)

    def _in_place(self, parts: list[Tensor]) -> Tensor:
        """Every member's columns, in the order of columns."""
        return torch.cat(parts, dim=-1).index_select(-1, self.place)

    def fit(self, rows: Walk) -> None:
        for member, columns in zip(self.members, self.order.split(self.n_each["columns"]), strict=True):
            member.fit(SomeColumns(rows, columns))

    def encode_input(self, x: Tensor) -> Tensor:
        parts = zip(self.members, self._columns(x), strict=True)
        return torch.cat([member.encode_input(part) for member, part in parts], dim=-1)

    def per_input(self, cells: Tensor) -> Tensor:
        parts = zip(self.members, self._columns(cells), strict=True)
        return torch.cat([member.per_input(part) for member, part in parts], dim=-1)

    def smooth(self, x: Tensor, noise: Tensor) -> Tensor:
        parts = zip(self.members, self._columns(x), self._columns(noise), strict=True)
        return self._in_place([member.smooth(p, n) if member.takes_noise else p for member, p, n in parts])

    def noisy_inputs(self) -> Array:
        return np.concatenate([member.noisy_inputs() for member in self.members])

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._parts("params", outputs), self._columns(x), strict=True)
        return self._in_place([member.log_prob(own, part) for (member, own), part in parts])

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        shared = cells.mass.shape[-1] == 1
        masses = [cells] * len(self.members)
        if not shared:
            pairs = zip(self._columns(cells.mass), self._columns(cells.total), strict=True)
            masses = [Cells(*pair) for pair in pairs]
        found = [
            member.nll_gradient(own.contiguous(), part, mass)
            for (member, own), part, mass in zip(self._parts("params", outputs), self._columns(x), masses, strict=True)
        ]
        return torch.stack([nll for nll, _ in found]).sum(0), torch.cat([gradient for _, gradient in found], dim=-1)

    def step_input(self, x: Tensor) -> Tensor:
        """What the encoder sees of all members' columns, then whatever else each asks for."""
        pairs = zip(self.members, self._columns(x), strict=True)
        parts = [member.step_input(part).tensor_split([member.n_inputs], dim=-1) for member, part in pairs]
        return torch.cat([part for kind in zip(*parts, strict=True) for part in kind], dim=-1)

    def gradient_of_seen(self, xp: Any) -> NLLGradient | None:
        """The members', each for its own pieces of outputs, rows and cells."""
        stated = [member.stated_gradient_of_seen(xp) for member in self.members]
        if any(gradient is None for gradient in stated):
            return None
        order = as_arrays(xp, self.order)[0]
        pieces = list(zip(stated, self._pieces(), strict=True))

        def nll_gradient(outputs: Any, rows: Any, cells: Cells) -> tuple[Any, Any]:
            mass, total = (v if v.shape[-1] == 1 else v[:, order] for v in cells)
            nll = 0.0
            for gradient, (params, seen, more, columns) in pieces:
                own = rows[:, seen] if more is None else xp.concat([rows[:, seen], rows[:, more]], -1)
                own_cells = cells if mass.shape[-1] == 1 else Cells(mass[:, columns], total[:, columns])
                value, slope = gradient(outputs[:, params], own, own_cells)
                nll += value.sum()
                outputs[:, params] = slope
            return xp.reshape(nll, (1, 1)), outputs

        return nll_gradient

    def _pieces(self) -> list[tuple[slice, slice, slice | None, slice]]:
        """Of each member: its outputs, its inputs among the step's rows, what else is its own there, its columns."""
        more = [member.n_step_inputs() - member.n_inputs for member in self.members]
        ends = [np.cumsum([0, *sizes]) for sizes in (*self.n_each.values(), more)]
        columns, params, inputs, others = ([slice(*pair) for pair in pairwise(end)] for end in ends)
        first = self.n_inputs
        behind = [slice(first + o.start, first + o.stop) if o.stop > o.start else None for o in others]
        return list(zip(params, inputs, behind, columns, strict=True))

    def mean(self, outputs: Tensor) -> Tensor:
        return self._in_place([member.mean(own) for member, own in self._parts("params", outputs)])

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._parts("params", outputs), self._columns(x), strict=True)
        return self._in_place([member.error(own, part) for (member, own), part in parts])

    def expected(self, outputs: Tensor) -> Tensor:
        return torch.cat([member.expected(own) for member, own in self._parts("params", outputs)], dim=-1)

    def collapse(self, expected: Tensor) -> Tensor:
        return self._in_place([member.collapse(own) for member, own in self._parts("inputs", expected)])

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return self._in_place([member.sample(own, rng) for member, own in self._parts("params", outputs)])

    def noise_range(self) -> tuple[Array, Array] | None:
        bounds = [member.noise_range() for member in self.members]
        if any(bound is None for bound in bounds):
            return None
        low, high = map(np.concatenate, zip(*bounds, strict=True))
        return low, high

    def most_loading(self) -> Array:
        return np.concatenate([member.most_loading() for member in self.members])

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        ends = np.cumsum(self.n_each["inputs"])[:-1]
        pieces = zip(np.split(linear.loadings, ends), np.split(linear.noise, ends), strict=True)
        found = [m.from_linear(LinearGaussian(*piece)) for m, piece in zip(self.members, pieces, strict=True)]
        weight, bias = zip(*found, strict=True)
        return np.concatenate(weight), np.concatenate(bias)


def resolved(assigned: list[tuple[Likelihood, list[int] | None]], schema: Schema) -> Likelihood:
    """A likelihood with all that depends on the table spelt out: column numbers, and numbers of categories."""
    spelt = []
    for member, columns in assigned:
        if isinstance(member, Categorical):
            own = sorted(schema.categories) if columns is None else columns
            spelt.append((member.for_categories(schema.n_categories(own)), columns))
        else:
            spelt.append((clone(member), columns))
    return spelt[0][0] if spelt[0][1] is None else Mixed(spelt)


def fits_schema(likelihood: Likelihood, n_categories: list[int]) -> bool:
    """Whether a resolved likelihood is one of columns with so many categories, 0 standing for numbers."""
    pairs = likelihood.members if isinstance(likelihood, Mixed) else [(likelihood, list(range(len(n_categories))))]
    columns = [column for _, own in pairs for column in own]
    if sorted(columns) != list(range(len(n_categories))):
        return False
    return all(
        isinstance(member, Likelihood)
        and (list(member.sizes(len(own))) if isinstance(member, Categorical) else [0] * len(own))
        == [n_categories[column] for column in own]
        for member, own in pairs
    )


def described(likelihood: Likelihood, schema: Schema) -> Likelihood:
    """A resolved likelihood as a user would write it: members by name where that says all, columns by theirs."""
    names = schema.names
    if not isinstance(likelihood, Mixed):
        found = _written(likelihood, list(schema.categories), schema)
        return clone(likelihood) if found != "categorical" else Categorical()
    members = likelihood.members
    return Mixed([(_written(m, own, schema), own if names is None else [names[c] for c in own]) for m, own in members])


def _written(member: Likelihood, columns: list[int], schema: Schema) -> Any:
    """A member's name, or the member itself where it is not what the name alone would give."""
    if isinstance(member, Categorical):
        known = [schema.categories[column] for column in columns]
        return clone(member) if all(values == list(range(len(values))) for values in known) else "categorical"
    plain = {repr(family()): name for name, family in LIKELIHOODS.items()}
    return plain.get(repr(member), clone(member))
