"""Likelihoods side by side: one for every column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._indexing import _get_column_indices
from torch import Tensor, nn

from .._linear import LinearGaussian
from .._params import named
from .._tables.batches import Batch
from .._tables.frames import frame_library, label_of
from .._tables.moments import Array, ColumnSums, Moments, Scale
from ._base import Assigned, CellWeights, Likelihood, LikelihoodModule, LinearStart, NLLGradient, as_arrays
from ._curvature import by_bends
from ._encoding import Encoding, Summand
from ._names import LIKELIHOODS

__all__ = ["Mixed", "select_columns"]


# So many columns a table shows.
SHOWN_COLUMNS = 60


class Mixed(Likelihood):
    """A likelihood of its own for every column: numbers, counts, yes or no, and categories in one table.

    Parameters
    ----------
    members : sequence of (likelihood, columns)
        A likelihood's name or an instance, and its columns: names, numbers, a slice, a mask, or a callable such as
        `sklearn.compose.make_column_selector`. A column may be in one member only.
    remainder : str, Likelihood or None, default=None
        The likelihood of columns that no member names; "auto" chooses by their values, as `likelihood="auto"` does.
        None: every column must be named.

    See Also
    --------
    VAETransformer : `likelihood="auto"` chooses by type and values.

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

    reads_cells = True

    _parameter_constraints: ClassVar[dict] = {"members": ["array-like"], "remainder": [None, str, Likelihood]}

    def __init__(self, members: Sequence[tuple[Any, Any]], *, remainder: str | Likelihood | None = None) -> None:
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

    def __str__(self) -> str:
        """A table of every column and its likelihood, where columns are listed."""
        rows = self._rows()
        if rows is None:
            return repr(self)
        width = max(len(column) for column, _ in rows)
        return "\n".join(f"{column:{width}}  {member}" for column, member in rows)

    def _html_repr(self) -> str:
        rows = self._rows()
        if rows is None:
            return f"<pre>{escape(repr(self))}</pre>"
        (first, second), *cells = [(escape(column), escape(member)) for column, member in rows]
        body = "".join(f"<tr><td>{column}</td><td>{member}</td></tr>" for column, member in cells)
        return f"<table><thead><tr><th>{first}</th><th>{second}</th></tr></thead><tbody>{body}</tbody></table>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._html_repr()}

    def _rows(self) -> list[tuple[str, str]] | None:
        """Columns and their likelihoods, as words under a heading; None where columns are named by a selector."""
        if not all(isinstance(columns, (list, tuple)) for _, columns in self.members):
            return None
        of_all = [(column, member) for member, columns in self.members for column in columns]
        if all(isinstance(column, int) for column, _ in of_all):
            of_all.sort(key=lambda pair: pair[0])
        rows = [(str(column), member if isinstance(member, str) else repr(member)) for column, member in of_all]
        more = len(rows) - SHOWN_COLUMNS
        if more > 0:
            rows = [*rows[:SHOWN_COLUMNS], ("...", f"and {more} others")]
        if self.remainder is not None:
            rows.append(("others", str(self.remainder)))
        return [("column", "likelihood"), *rows]

    def assign(self, X: Any, columns: list[int] | None = None) -> list[Assigned]:
        self._validate_params()
        found = [(_member(member), select_columns(X, columns)) for member, columns in self.members]
        owner: dict[int, Likelihood] = {}
        for member, columns in found:
            for column in columns:
                if column in owner:
                    raise ValueError(
                        f"Mixed gives {label_of(X, column)} to both {owner[column]!r} and {member!r}; name it once."
                    )
                owner[column] = member
        rest = [column for column in range(X.shape[1]) if column not in owner]
        if rest and self.remainder is None:
            raise ValueError(
                f"Mixed has no likelihood for {label_of(X, rest[0])}; name the column, or set remainder='auto'."
            )
        if rest:
            found.append((_member(self.remainder), rest))
        if all(member.is_given for member, own in found if own):
            raise ValueError("Mixed leaves no column to model: all are given. Take some out, or set remainder='auto'.")
        return [pair for member, own in found if own for pair in member.assign(X, own)]

    def assigned(self, n_columns: int) -> list[tuple[Likelihood, list[int]]]:
        return list(self.members)

    def scale(self, moments: Moments) -> Scale:
        shift, scale = np.zeros_like(moments.mean), np.ones_like(moments.mean)
        for member, columns in self.members:
            part = _member(member).scale(Moments(*(values[columns] for values in moments)))
            shift[columns], scale[columns] = part.shift, part.scale
        return Scale(shift, scale)

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        parts = []
        for member, columns in self.members:
            own = Scale(scale.shift[columns], scale.scale[columns])
            parts.append((_member(member).build(len(columns), own), columns))
        return _MixedModule(parts)

    def check(self, X: Array, names: Sequence[str]) -> None:
        for member, columns in self.members:
            _member(member).check(X[:, columns], [names[column] for column in columns])


def _member(value: Any) -> Likelihood:
    """A likelihood by its name, or itself."""
    found = named(value, LIKELIHOODS)
    if not isinstance(found, Likelihood) or isinstance(found, Mixed):
        raise ValueError(f"Mixed holds {value!r} where a likelihood is wanted; use one of {sorted(LIKELIHOODS)}.")
    return found


class _SideBySide(Encoding):
    """The members' encodings: inputs in the order of members, x in the order of columns."""

    order: Tensor  # the columns as the members have them
    place: Tensor  # where each column stands among them

    def __init__(self, encodings: list[Encoding], order: list[int]):
        noise = torch.cat([encoding.takes_noise for encoding in encodings])
        super().__init__(len(order), len(noise), noise, all(encoding.adds_in_seen for encoding in encodings))
        self.n_columns = [encoding.n_features for encoding in encodings]
        self.n_each = [encoding.n_inputs for encoding in encodings]
        self.register_buffer("order", torch.tensor(order, device="cpu"), persistent=False)
        self.register_buffer("place", torch.tensor(np.argsort(order), device="cpu"), persistent=False)
        # In a list that torch does not see: the members' modules hold them.
        self.each = tuple(encodings)

    def columns(self, x: Tensor) -> Sequence[Tensor]:
        """Every member's columns of x."""
        return x.index_select(-1, self.order).split(self.n_columns, dim=-1)

    def in_place(self, parts: list[Tensor]) -> Tensor:
        """Every member's columns, in the order of columns."""
        return torch.cat(parts, dim=-1).index_select(-1, self.place)

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([one.encode(part) for one, part in zip(self.each, self.columns(x), strict=True)], dim=-1)

    def per_input(self, cells: Tensor) -> Tensor:
        return torch.cat([one.per_input(p) for one, p in zip(self.each, self.columns(cells), strict=True)], dim=-1)

    def add_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """To the columns that take it."""
        parts = zip(self.each, self.columns(x), self.columns(noise), strict=True)
        return self.in_place([one.add_noise(p, n) if one.n_noisy else p for one, p, n in parts])

    def apart(self) -> np.ndarray:
        return np.concatenate([one.apart() for one in self.each])

    def is_given(self) -> np.ndarray:
        return np.concatenate([one.is_given() for one in self.each])

    def given(self, x: Tensor) -> Tensor:
        parts = zip(self.each, self.columns(x), strict=True)
        return torch.cat([one.given(part) for one, part in parts if one.is_given().any()], dim=-1)

    def log_slope(self, xp: Any) -> Callable[[Any], Any] | None:
        slopes = [one.log_slope(xp) for one in self.each]
        if not any(slopes):
            return None
        (place,) = as_arrays(xp, self.place)
        pieces = list(zip(slopes, _slices(self.n_each), self.n_columns, strict=True))

        def of_all(seen: Any) -> Any:
            flat = seen[:, :1] * 0
            parts = [xp.concat([flat] * n, -1) if slope is None else slope(seen[:, own]) for slope, own, n in pieces]
            return xp.concat(parts, -1)[:, place]

        return of_all


class _MixedModule(LikelihoodModule):
    """The members' modules side by side: outputs in the order of members, x in the order of columns."""

    encoding: _SideBySide
    members: Any

    def __init__(self, parts: list[tuple[LikelihoodModule, list[int]]]):
        members = [member for member, _ in parts]
        encoding = _SideBySide([m.encoding for m in members], [column for _, columns in parts for column in columns])
        super().__init__(encoding.n_features, sum(m.n_params for m in members), encoding)
        self.members = nn.ModuleList(members)
        self.n_outputs = [m.n_params for m in members]

    def columns_of_outputs(self) -> np.ndarray:
        own = self.encoding.order.numpy()
        parts = zip(self.members, _slices(self.encoding.n_columns), strict=True)
        return np.concatenate([own[part][member.columns_of_outputs()] for member, part in parts])

    def _each(self, outputs: Tensor) -> Any:
        """Each member with its own outputs."""
        return zip(self.members, outputs.split(self.n_outputs, dim=-1), strict=True)

    def summands(self) -> Sequence[Summand]:
        def of_columns(function: Summand, columns: Tensor) -> Summand:
            return lambda x: function(x.index_select(-1, columns))

        parts = zip(self.members, self.encoding.order.split(self.encoding.n_columns), strict=True)
        return [of_columns(function, columns) for member, columns in parts for function in member.summands()]

    def fit_sums(self, *sums: ColumnSums) -> None:
        left = iter(sums)
        for member in self.members:
            member.fit_sums(*(next(left) for _ in member.summands()))

    @property
    def reads_values(self) -> bool:
        return any(member.reads_values for member in self.members)

    def fit_values(self, rows: Batch, copies: float) -> None:
        masks = [None] * len(self.members) if rows.mask is None else self.encoding.columns(rows.mask)
        for member, x, mask in zip(self.members, self.encoding.columns(rows.x), masks, strict=True):
            if member.reads_values:
                member.fit_values(Batch(x, mask, rows.weight), copies)

    def reach(self, high: Tensor) -> None:
        for member, part in zip(self.members, self.encoding.columns(high), strict=True):
            member.reach(part)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._each(outputs), self.encoding.columns(x), strict=True)
        return self.encoding.in_place([member.log_prob(own, part) for (member, own), part in parts])

    def second_derivatives(self, outputs: Tensor, x: Tensor, mask: Tensor | None, slope: Tensor) -> Tensor:
        """The members', each of its own outputs, added up: of those that have a formula in one product."""
        masks = [None] * len(self.members) if mask is None else self.encoding.columns(mask)
        slopes, found = slope.split(self.n_outputs, dim=1), slope.new_zeros(len(slope), *2 * slope.shape[2:])
        bends, bent = [], []
        parts = zip(self._each(outputs), self.encoding.columns(x), masks, slopes, strict=True)
        for (member, own), cells, present, along in parts:
            if (mine := member.bends(own, cells)) is None:
                found += member.second_derivatives(own, cells, present, along)
            else:
                bends.append(mine.expand_as(own) if present is None else mine * present)
                bent.append(along)
        return found + by_bends(torch.cat(bends, dim=-1), torch.cat(bent, dim=1)) if bends else found

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._each(outputs), self.encoding.columns(x), strict=True)
        return self.encoding.in_place([member.cdf(own, part) for (member, own), part in parts])

    def mean(self, outputs: Tensor) -> Tensor:
        return self.encoding.in_place([member.mean(own) for member, own in self._each(outputs)])

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return self.encoding.in_place([member.sample(own, rng) for member, own in self._each(outputs)])

    def mean_given(self, outputs: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._each(outputs), self.encoding.columns(x), strict=True)
        return self._together([member.mean_given(own, part) for (member, own), part in parts])

    def sample_given(self, outputs: Tensor, x: Tensor, rng: torch.Generator) -> Tensor:
        parts = zip(self._each(outputs), self.encoding.columns(x), strict=True)
        return self._together([member.sample_given(own, part, rng) for (member, own), part in parts])

    def _together(self, parts: list[Tensor]) -> Tensor:
        """The members' columns in place, where some vary over rows and others do not."""
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return self.encoding.in_place([part.expand(*shape, part.shape[-1]) for part in parts])

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        parts = zip(self._each(outputs), self.encoding.columns(x), strict=True)
        return self.encoding.in_place([member.error(own, part) for (member, own), part in parts])

    def expected(self, outputs: Tensor) -> Tensor:
        return torch.cat([member.expected(own) for member, own in self._each(outputs)], dim=-1)

    def expected_in_gaps(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        masks = [None] * len(self.members) if mask is None else self.encoding.columns(mask)
        parts = zip(self._each(outputs), masks, strict=True)
        return torch.cat([member.expected_in_gaps(own, present) for (member, own), present in parts], dim=-1)

    def encoded_mean(self, outputs: Tensor) -> Tensor:
        return torch.cat([member.encoded_mean(own) for member, own in self._each(outputs)], dim=-1)

    def collapse(self, expected: Tensor) -> Tensor:
        parts = expected.split(self.encoding.n_each, dim=-1)
        return self.encoding.in_place([member.collapse(own) for member, own in zip(self.members, parts, strict=True)])

    def linear_start(self) -> LinearStart | None:
        """The members', one after the other."""
        starts = [member.linear_start() for member in self.members]
        if None in starts:
            return None
        sizes = self.encoding.n_each

        def from_linear(linear: LinearGaussian) -> tuple[Array, Array]:
            pieces = [LinearGaussian(linear.loadings[own], linear.noise[own]) for own in _slices(sizes)]
            weights, biases = zip(*(s.from_linear(p) for s, p in zip(starts, pieces, strict=True)), strict=True)
            return np.concatenate(weights), np.concatenate(biases)

        loading = [np.broadcast_to(s.max_loading, n) for s, n in zip(starts, sizes, strict=True)]
        least, most = (np.concatenate([getattr(s, end) for s in starts]) for end in ("least", "most"))
        return LinearStart(least, most, from_linear, np.concatenate(loading))

    # A training step without a graph.

    @property
    def states_gradient(self) -> bool:
        return all(member.states_gradient for member in self.members)

    def more(self, x: Tensor) -> Tensor:
        parts = zip(self.members, self.encoding.columns(x), strict=True)
        return torch.cat([member.more(part) for member, part in parts], dim=-1)

    def gradient(self, xp: Any) -> NLLGradient | None:
        """The members', each for its own pieces of outputs, rows and cells."""
        if not self.states_gradient:
            return None
        (order,) = as_arrays(xp, self.encoding.order)
        pieces = list(zip([member.gradient(xp) for member in self.members], self._pieces(), strict=True))

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            mass, total = (v if v.shape[-1] == 1 else v[:, order] for v in cells)
            nll = 0.0
            for gradient, (params, seen, more, columns) in pieces:
                own = xp.concat([rows[:, seen], rows[:, more]], -1) if more.stop > more.start else rows[:, seen]
                own_cells = cells if mass.shape[-1] == 1 else CellWeights(mass[:, columns], total[:, columns])
                value, slope = gradient(outputs[:, params], own, own_cells)
                nll += value.sum()
                outputs[:, params] = slope
            return xp.reshape(nll, (1, 1)), outputs

        return nll_gradient

    def _pieces(self) -> list[tuple[slice, ...]]:
        """Of each member: its outputs, what its encoder sees and `more` among a step's rows, its columns."""
        members, n = self.members, self.encoding.n_inputs
        more = _slices([n, *(m.n_more() for m in members)])[1:]
        seen, params = _slices(self.encoding.n_each), _slices(self.n_outputs)
        return list(zip(params, seen, more, _slices(self.encoding.n_columns), strict=True))


def _slices(sizes: Sequence[int]) -> list[slice]:
    """Where pieces of these sizes lie, side by side."""
    return [slice(*map(int, pair)) for pair in pairwise(np.cumsum([0, *sizes]))]


def select_columns(X: Any, key: Any) -> list[int]:
    """The numbers of the columns that a key names, as in `sklearn.compose.ColumnTransformer`."""
    if callable(key):
        key = key(X)
    try:
        key = key.tolist() if isinstance(key, (np.ndarray, np.generic)) else key
        # A tuple is one label where a frame has it, as one of several levels has.
        one = isinstance(key, (str, int)) or (isinstance(key, tuple) and key in _labels(X))
        if not isinstance(key, slice):
            key = [key] if one else list(key)
        return [int(column) for column in _get_column_indices(X, key)]
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"Mixed cannot find the columns {key!r} in X: {error}") from None


def _labels(X: Any) -> list:
    """The labels of a frame's columns."""
    return [] if frame_library(X) is None else list(X.columns)
