"""Find the function of a loaded TensorFlow Hub module or SavedModel that turns images or sentences into vectors.

A module in the form "reusable SavedModel" is callable; any other has named signatures, each a function from named
tensors to a dict of tensors (TensorFlow's guide "Using the SavedModel format"; TensorFlow Hub's "Common SavedModel
APIs" for images and for text). The choice depends only on the module, so a hash of its files identifies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gifdex.schemas.errors import EncoderError

SIDE = 224  # of images, if the module leaves height or width open

Shape = tuple[int | None, ...]

# The usual names in TF2, in TF1's hub, and in its image modules, in the order they are tried.
_SIGNATURES = ("serving_default", "default", "image_feature_vector")
_OUTPUTS = ("default", "outputs", "feature_vector", "embeddings")
_TRAINING = "training"
_LISTED = 8


@dataclass(frozen=True)
class Wanted:
    """The input that a function must take: one tensor of one of `dtypes` and of `rank`; `last` is its last side.

    `strict` refuses tensors of unknown rank. `size` replaces sides that the module leaves open, except the batch.
    """

    what: str
    expected: str
    dtypes: tuple[str, ...]
    rank: int
    last: int | None = None
    strict: bool = True
    size: int | None = None

    def shape(self, spec: Any) -> Shape | None:
        """Return the shape to call with (the batch is None if open), or None if the tensor does not match."""
        if spec.dtype.name not in self.dtypes:
            return None
        if spec.shape.rank is None:
            return None if self.strict else (None,) * self.rank
        sides = tuple(spec.shape.as_list())
        if len(sides) != self.rank or (self.last is not None and sides[-1] != self.last):
            return None
        return (sides[0], *(self.size if side is None else side for side in sides[1:]))


IMAGES = Wanted("images", "float32 or uint8 (n, height, width, 3)", ("float32", "uint8"), 4, last=3, size=SIDE)
# A module with an unknown input shape takes a list of sentences.
TEXTS = Wanted("texts", "string (n,)", ("string",), 1, strict=False)


@dataclass(frozen=True)
class Endpoint:
    """One function of a module: from a tensor of `dtype` and `shape` (None if n is open) to floats (n, dimensions).

    `signature` is its name, `__call__` for the module itself; `output` names the output tensor, "" for the only one.
    """

    signature: str
    output: str
    dtype: str
    shape: Shape
    dimensions: int
    run: Callable[[Any], Any]


@dataclass(frozen=True)
class _Candidate:
    signature: str
    spec: Any
    shape: Shape
    call: Callable[[Any], Any]


def find_endpoint(tf: Any, module: Any, wanted: Wanted, name: str) -> Endpoint:
    """Return a matching function of `module`: its __call__, a signature with a usual name, or the only other one.

    Raises EncoderError listing the module's functions if none or several match.
    """
    for candidate in _of_call(tf, module, wanted):
        if endpoint := _endpoint(tf, candidate, name):
            return endpoint
    found = {
        candidate.signature: endpoint
        for candidate in _of_signatures(tf, module, wanted)
        if (endpoint := _endpoint(tf, candidate, name))
    }
    for usual in _SIGNATURES:
        if usual in found:
            return found[usual]
    if len(found) == 1:
        return next(iter(found.values()))
    which = f"several functions for {wanted.what} ({', '.join(found)})" if found else f"no function for {wanted.what}"
    raise EncoderError(
        f"{name} has {which}: expected one with the only input {wanted.expected} and one output of floats (n, d), or "
        f"several of which one is called {', '.join(_OUTPUTS[:-1])} or {_OUTPUTS[-1]}; it offers {_offers(module)}: "
        "choose another module, or save this one with such a signature called serving_default"
    )


def _of_call(tf: Any, module: Any, wanted: Wanted) -> list[_Candidate]:
    """Return the ways to call the module itself, those for any batch size first."""
    found: list[_Candidate] = []
    for function in _concrete(module):
        args, kwargs = function.structured_input_signature
        named = dict(zip(function.function_type.parameters, args, strict=False)) | kwargs
        scalars = {key for key, value in named.items() if isinstance(value, tf.TensorSpec) and value.shape.rank == 0}
        others = [value for key, value in named.items() if key not in scalars]
        tensors = [leaf for leaf in tf.nest.flatten(others) if isinstance(leaf, tf.TensorSpec)]
        if len(tensors) != 1 or (shape := wanted.shape(tensors[0])) is None:
            continue
        training = {_TRAINING: False} if _TRAINING in named else {}
        if tensors[0] in tf.nest.flatten(args[:1]):
            found.append(_Candidate("__call__", tensors[0], shape, _with_defaults(tf, module, args[0], training)))
        if named.get(_TRAINING) is not True and scalars <= {_TRAINING}:
            found.append(_Candidate("__call__", tensors[0], shape, _as_traced(tf, module, args, kwargs)))
    return sorted(found, key=lambda candidate: candidate.shape[0] is not None)


def _with_defaults(tf: Any, module: Any, inputs: Any, training: Mapping[str, bool]) -> Callable[[Any], Any]:
    """Call as a user would: omitted arguments take the module's defaults."""
    return lambda tensor: module(_filled(tf, inputs, tensor), **training)


def _as_traced(tf: Any, module: Any, args: Any, kwargs: Any) -> Callable[[Any], Any]:
    """Call with exactly the arguments that the function was saved with, in case its defaults were not saved."""
    return lambda tensor: module(*_filled(tf, args, tensor), **_filled(tf, kwargs, tensor))


def _filled(tf: Any, structure: Any, tensor: Any) -> Any:
    """Return the arguments with the tensor filled in, and false for `training`."""

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, tf.TensorSpec):
            return leaf
        return tf.zeros((), leaf.dtype) if leaf.shape.rank == 0 else tensor

    return tf.nest.map_structure(fill, structure)


def _of_signatures(tf: Any, module: Any, wanted: Wanted) -> list[_Candidate]:
    found = []
    for name, function in _signatures(module).items():
        inputs = dict(function.structured_input_signature[1])
        training = inputs.pop(_TRAINING, None)
        if len(inputs) != 1:
            continue
        key, spec = next(iter(inputs.items()))
        if (shape := wanted.shape(spec)) is not None:
            more = {} if training is None else {_TRAINING: tf.zeros((), training.dtype)}
            found.append(_Candidate(name, spec, shape, _by_name(function, key, more)))
    return found


def _by_name(function: Any, key: str, more: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda tensor: function(**{key: tensor}, **more)


def _endpoint(tf: Any, candidate: _Candidate, name: str) -> Endpoint | None:
    """Return the candidate with its one matching output, or None."""
    traced = tf.function(candidate.call, input_signature=[tf.TensorSpec(candidate.shape, candidate.spec.dtype)])
    try:
        outputs = _named(tf, traced.get_concrete_function().structured_outputs)
    except (TypeError, ValueError):  # the module does not accept these arguments
        return None
    floats = {name: output for name, output in outputs.items() if output.dtype.is_floating}
    if any(output.shape.rank is None or output.shape[1:] == [None] for output in floats.values()):
        floats = _named(tf, _run_once(tf, traced, candidate, name))
    vectors = {name: output for name, output in floats.items() if output.dtype.is_floating and output.shape.rank == 2}
    usual = [output for output in _OUTPUTS if output in vectors] or list(vectors)
    if not usual or (len(vectors) > 1 and usual[0] not in _OUTPUTS):
        return None
    chosen = usual[0]
    return Endpoint(
        candidate.signature,
        chosen,
        candidate.spec.dtype.name,
        candidate.shape,
        int(vectors[chosen].shape[1]),
        lambda tensor: _named(tf, candidate.call(tensor))[chosen],
    )


def _run_once(tf: Any, traced: Callable[[Any], Any], candidate: _Candidate, name: str) -> Any:
    """Return the outputs for black images or empty sentences, for modules that do not declare their shapes."""
    example = tf.zeros([1 if side is None else side for side in candidate.shape], candidate.spec.dtype)
    try:
        return traced(example)
    except tf.errors.OpError as err:
        raise EncoderError(
            f"{name} failed at its first run, {candidate.signature} of {_tensor(example)} ({brief(err)}); expected "
            "vectors: choose another module, or fix this one"
        ) from err


def _named(tf: Any, outputs: Any, prefix: str = "") -> dict[str, Any]:
    """Return a function's output tensors by their keys or indexes, joined by slashes; "" for a single tensor."""
    if isinstance(outputs, tf.Tensor | tf.TensorSpec):
        return {prefix: outputs}
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(outputs, Mapping):
        items = iter(sorted(outputs.items()))
    elif isinstance(outputs, list | tuple):
        items = iter(enumerate(outputs))
    named: dict[str, Any] = {}
    for key, output in items:
        named |= _named(tf, output, f"{prefix}/{key}" if prefix else str(key))
    return named


def _concrete(module: Any) -> list[Any]:
    return list(getattr(module.__call__, "concrete_functions", ())) if callable(module) else []


def _signatures(module: Any) -> dict[str, Any]:
    return dict(sorted(getattr(module, "signatures", {}).items()))


def _offers(module: Any) -> str:
    """Return every function of the module with its inputs and outputs: names, dtypes and shapes."""
    lines = [_describe("__call__", function) for function in _concrete(module)]
    lines += [_describe(name, function) for name, function in _signatures(module).items()]
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return "; ".join(lines[:_LISTED]) + more if lines else "nothing that can be called"


def _describe(name: str, function: Any) -> str:
    args, kwargs = function.structured_input_signature
    named = dict(zip(function.function_type.parameters, args, strict=False)) | kwargs
    inputs = ", ".join(f"{key}: {_tensor(value)}" for key, value in named.items())
    outputs = function.structured_outputs
    if not isinstance(outputs, dict):
        return f"{name}({inputs}) -> {_tensor(outputs)}"
    given = ", ".join(f"{key}: {_tensor(value)}" for key, value in sorted(outputs.items()))
    return f"{name}({inputs}) -> {{{given}}}"


def _tensor(value: Any) -> str:
    """Return a tensor's dtype and shape, or the repr of anything else."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_tensor, value))}]"
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return repr(value)
    if value.shape.rank is None:
        return f"{value.dtype.name} of any shape"
    sides = ", ".join("?" if side is None else str(side) for side in value.shape.as_list())
    return f"{value.dtype.name} ({sides}{',' if value.shape.rank == 1 else ''})"


def brief(err: BaseException) -> str:
    """Return the beginning of an error's message on one line, for use in a sentence."""
    text = " ".join(str(err).split()) or type(err).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
