"""The choice of a module's function, on modules saved and loaded by TensorFlow itself."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gifdex.encoders.tensorflow.hub_signature import IMAGES, TEXTS, Endpoint, brief, find_endpoint
from gifdex.encoders.tensorflow.runtime import import_tensorflow
from gifdex.schemas.errors import EncoderError

if importlib.util.find_spec("tensorflow_hub") is None:  # find_spec, because importing it warns
    pytest.skip("tensorflow_hub is not installed", allow_module_level=True)

Loaded = Callable[..., Any]


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow("the tests")


@pytest.fixture
def loaded(tf: Any, tmp_path: Path) -> Loaded:
    """Return a function that saves a module and loads it: `loaded(call, serving_default=function, ...)`."""
    numbers = itertools.count()

    def build(call: Any = None, **signatures: Any) -> Any:
        module = tf.Module()
        if call is not None:
            module.__call__ = call
        module.functions = list(signatures.values())
        folder = str(tmp_path / str(next(numbers)))
        tf.saved_model.save(module, folder, signatures=signatures)
        return tf.saved_model.load(folder)

    return build


def sums(tf: Any, shape: Any, factor: float = 1.0, dtype: str = "float32", output: str | None = None) -> Any:
    """A function from tensors (n, ..., 3) to (n, 3): sums over the inner dimensions, times an identifying factor."""

    def call(inputs: Any) -> Any:
        total = factor * tf.reduce_sum(tf.cast(inputs, tf.float32), axis=[1, 2])
        return {output: total} if output else total

    return tf.function(call, input_signature=[tf.TensorSpec(shape, dtype, "inputs")])


OPEN = (None, None, None, 3)


def images(tf: Any, module: Any) -> Endpoint:
    return find_endpoint(tf, module, IMAGES, "the module")


def factor(tf: Any, endpoint: Endpoint) -> float:
    """The factor of the chosen function."""
    shape = [side or 1 for side in endpoint.shape]
    return float(endpoint.run(tf.ones(shape, endpoint.dtype))[0, 0]) / (shape[1] * shape[2])


def test_the_module_itself_is_preferred_to_its_signatures(tf: Any, loaded: Loaded) -> None:
    endpoint = images(tf, loaded(sums(tf, OPEN, 2), serving_default=sums(tf, OPEN, 3, output="x")))
    assert (endpoint.signature, endpoint.output, factor(tf, endpoint)) == ("__call__", "", 2)
    assert (endpoint.dtype, endpoint.shape, endpoint.dimensions) == ("float32", (None, 224, 224, 3), 3)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("image_feature_vector", "default", "serving_default", "another"), "serving_default"),
        (("another", "image_feature_vector", "default"), "default"),
        (("another", "image_feature_vector"), "image_feature_vector"),
        (("another",), "another"),
    ],
)
def test_signatures_with_usual_names_are_preferred(
    tf: Any, loaded: Loaded, names: tuple[str, ...], expected: str
) -> None:
    functions = {name: sums(tf, OPEN, place + 1, output="x") for place, name in enumerate(names)}
    endpoint = images(tf, loaded(**functions))
    assert (endpoint.signature, endpoint.output) == (expected, "x")
    assert factor(tf, endpoint) == names.index(expected) + 1


def test_an_unsuitable_function_is_skipped(tf: Any, loaded: Loaded) -> None:
    text = tf.function(lambda s: {"x": tf.zeros((tf.size(s), 4))}, input_signature=[tf.TensorSpec([None], tf.string)])
    module = loaded(sums(tf, (None, 8, 8, 4)), serving_default=text, mine=sums(tf, OPEN, 5, output="x"))
    assert images(tf, module).signature == "mine"
    assert find_endpoint(tf, module, TEXTS, "the module").signature == "serving_default"


def with_arguments(tf: Any, traces: list[tuple[Any, ...]]) -> Any:
    """`call(inputs, training=True, endpoints=False)`, saved for the given arguments; training changes the result."""

    def call(inputs: Any, training: Any = True, endpoints: Any = False) -> Any:
        total = tf.reduce_sum(inputs, axis=[1, 2])
        total = tf.where(tf.convert_to_tensor(training), -total, total)
        return {"default": 2 * total, "middle": inputs, "other": total} if endpoints else total

    function = tf.function(call)
    for trace in traces:
        function.get_concrete_function(tf.TensorSpec(OPEN), *trace)
    return function


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        ([()], None),
        ([(True,)], None),
        ([(False,)], 1),
        ([(True, False), (False, False)], 1),
        ([(True, True), (False, True), (True, False), (False, False)], 1),  # the default is endpoints=False
        ([(True, True), (False, True)], 2),
        ([("tensor",)], 1),
        ([(True,), ("tensor", True)], 2),
    ],
)
def test_training_is_always_off(tf: Any, loaded: Loaded, traces: list[tuple[Any, ...]], expected: float | None) -> None:
    placeholder = tf.TensorSpec((), tf.bool, "training")
    traced = [tuple(placeholder if value == "tensor" else value for value in trace) for trace in traces]
    module = loaded(with_arguments(tf, traced))
    if expected is None:
        with pytest.raises(EncoderError, match=r"inputs: float32 \(\?, \?, \?, 3\), training: True, endpoints: False"):
            images(tf, module)
    else:
        assert factor(tf, images(tf, module)) == expected


def test_training_is_off_in_a_signature_too(tf: Any, loaded: Loaded) -> None:
    function = tf.function(lambda inputs, training: {"x": with_arguments(tf, []).python_function(inputs, training)})
    spec = tf.TensorSpec(OPEN, name="inputs"), tf.TensorSpec((), tf.bool, "training")
    assert factor(tf, images(tf, loaded(serving_default=function.get_concrete_function(*spec)))) == 1


def test_an_unknown_numeric_argument_keeps_its_default(tf: Any, loaded: Loaded) -> None:
    def build(default: bool) -> Any:
        scale = tf.function(lambda x, scale=4.0: scale * tf.reduce_sum(x, axis=[1, 2]))
        plain = tf.function(lambda x, scale: scale * tf.reduce_sum(x, axis=[1, 2]))
        function = scale if default else plain
        function.get_concrete_function(tf.TensorSpec(OPEN), tf.TensorSpec((), tf.float32))
        return loaded(function)

    assert factor(tf, images(tf, build(default=True))) == 4
    with pytest.raises(EncoderError, match=r"scale: float32 \(\)"):
        images(tf, build(default=False))


def test_inputs_in_a_list_or_a_one_key_dict_are_accepted(tf: Any, loaded: Loaded) -> None:
    listed = tf.function(lambda x: tf.reduce_sum(x[0], axis=[1, 2]), input_signature=[[tf.TensorSpec(OPEN)]])
    named = tf.function(lambda x: tf.reduce_sum(x["a"], axis=[1, 2]), input_signature=[{"a": tf.TensorSpec(OPEN)}])
    for function in (listed, named):
        assert factor(tf, images(tf, loaded(function))) == 1


def test_a_trace_for_any_batch_is_preferred_to_one_for_a_fixed_batch(tf: Any, loaded: Loaded) -> None:
    function = tf.function(lambda x: tf.reduce_sum(x, axis=[1, 2]))
    function.get_concrete_function(tf.TensorSpec((1, 8, 8, 3)))
    assert images(tf, loaded(function)).shape == (1, 8, 8, 3)
    function.get_concrete_function(tf.TensorSpec((None, 8, 8, 3)))
    assert images(tf, loaded(function)).shape == (None, 8, 8, 3)


def outputs(tf: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    """A function whose outputs have these inner shapes; each is filled with its position."""

    def call(inputs: Any) -> dict[str, Any]:
        n = tf.shape(inputs)[0]
        return {name: tf.fill((n, *shape), float(place)) for place, (name, shape) in enumerate(shapes.items())}

    return tf.function(call, input_signature=[tf.TensorSpec(OPEN)])


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"a": (3,), "default": (4,), "outputs": (5,)}, "default"),
        ({"a": (3,), "feature_vector": (4,), "outputs": (5,)}, "outputs"),
        ({"embeddings": (3,), "feature_vector": (4,)}, "feature_vector"),
        ({"a": (3,), "embeddings": (4,)}, "embeddings"),
        ({"a": (3,), "default": (2, 2, 4)}, "a"),
        ({"a": (), "b": (3,), "c": (2, 3)}, "b"),
    ],
)
def test_among_several_outputs_the_usual_name_or_the_only_vector_is_chosen(
    tf: Any, loaded: Loaded, shapes: dict[str, tuple[int, ...]], expected: str
) -> None:
    for module in (loaded(outputs(tf, shapes)), loaded(serving_default=outputs(tf, shapes))):
        endpoint = images(tf, module)
        assert (endpoint.output, endpoint.dimensions) == (expected, shapes[expected][0])
        found = endpoint.run(tf.zeros((2, 224, 224, 3))).numpy()
        np.testing.assert_array_equal(found, np.full((2, *shapes[expected]), float(list(shapes).index(expected))))


def test_a_nested_output_is_named_by_its_path(tf: Any, loaded: Loaded) -> None:
    function = tf.function(
        lambda x: ({"b": x, "c": [tf.reduce_sum(x, axis=[1, 2])]}, tf.shape(x)), input_signature=[tf.TensorSpec(OPEN)]
    )
    endpoint = images(tf, loaded(function))
    assert endpoint.output == "0/c/0"
    assert factor(tf, endpoint) == 1


def test_unknown_sizes_are_found_by_one_run(tf: Any, loaded: Loaded) -> None:
    def hidden(shape: Any, x: Any) -> Any:
        return tf.raw_ops.PlaceholderWithDefault(input=tf.reduce_sum(x, axis=[1, 2]), shape=shape)

    for shape in (None, [None, None]):
        function = tf.function(partial(hidden, shape), input_signature=[tf.TensorSpec((None, 20, None, 3))])
        endpoint = images(tf, loaded(function))
        assert (endpoint.dimensions, endpoint.shape) == (3, (None, 20, 224, 3))


def test_text_inputs_of_unknown_shape_get_a_list(tf: Any, loaded: Loaded) -> None:
    call = tf.function(
        lambda s: tf.one_hot(tf.strings.length(s) % 4, 4), input_signature=[tf.TensorSpec(None, tf.string)]
    )
    endpoint = find_endpoint(tf, loaded(call), TEXTS, "the module")
    assert (endpoint.shape, endpoint.dimensions) == ((None,), 4)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((None, None, 3), "float32"), ((None, 3, 8, 8), "float32"), (OPEN, "int32"), (OPEN, "float16"), (None, "float32")],
)
def test_unsuitable_inputs_are_refused_and_shown(tf: Any, loaded: Loaded, shape: Any, dtype: str) -> None:
    function = tf.function(lambda x: tf.zeros((tf.shape(x)[0], 3)), input_signature=[tf.TensorSpec(shape, dtype, "x")])
    shown = "of any shape" if shape is None else f"({', '.join('?' if side is None else str(side) for side in shape)})"
    with pytest.raises(EncoderError) as caught:
        images(tf, loaded(function))
    assert f"it offers __call__(x: {dtype} {shown}) -> float32 (?, 3): choose" in str(caught.value)
    assert "expected one with the only input float32 or uint8 (n, height, width, 3)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "shown"),
    [
        ({"a": (3,), "b": (4,)}, "{a: float32 (?, 3), b: float32 (?, 4)}"),
        ({"default": (3, 4)}, "{default: float32 (?, 3, 4)}"),
        ({"default": ()}, "{default: float32 (?,)}"),
    ],
)
def test_missing_or_ambiguous_outputs_are_refused_and_shown(
    tf: Any, loaded: Loaded, shapes: dict[str, tuple[int, ...]], shown: str
) -> None:
    with pytest.raises(EncoderError, match="no function for images") as caught:
        images(tf, loaded(serving_default=outputs(tf, shapes)))
    assert shown in str(caught.value)
    assert "default, outputs, feature_vector or embeddings" in str(caught.value)


def test_outputs_that_are_not_floats_are_refused(tf: Any, loaded: Loaded) -> None:
    function = tf.function(lambda x: tf.zeros((tf.shape(x)[0], 3), tf.int32), input_signature=[tf.TensorSpec(OPEN)])
    with pytest.raises(EncoderError, match=r"-> int32 \(\?, 3\)"):
        images(tf, loaded(function))


def test_several_signatures_with_unusual_names_are_refused_by_name(tf: Any, loaded: Loaded) -> None:
    with pytest.raises(EncoderError, match=r"several functions for images \(one, two\)"):
        images(tf, loaded(one=sums(tf, OPEN, output="x"), two=sums(tf, OPEN, output="x")))


def test_two_inputs_are_refused_and_shown(tf: Any, loaded: Loaded) -> None:
    specs = [tf.TensorSpec(OPEN, name="a"), tf.TensorSpec((None, 2), name="b")]
    function = tf.function(lambda a, b: {"x": tf.reduce_sum(a, axis=[1, 2])}, input_signature=specs)
    with pytest.raises(EncoderError, match=r"\(a: float32 \(\?, \?, \?, 3\), b: float32 \(\?, 2\)\)"):
        images(tf, loaded(function, serving_default=function))


def test_a_module_without_functions_is_refused(tf: Any, loaded: Loaded) -> None:
    with pytest.raises(EncoderError, match="it offers nothing that can be called: choose another module"):
        images(tf, loaded())


def test_a_long_list_of_functions_is_shortened(tf: Any, loaded: Loaded) -> None:
    function = outputs(tf, {"a": (2, 2)})
    with pytest.raises(EncoderError, match=r"; and 3 more: choose"):
        images(tf, loaded(**{f"signature_{number:02}": function for number in range(11)}))


def test_a_module_that_fails_at_its_first_run_is_named(tf: Any, loaded: Loaded) -> None:
    def failing(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(x)[1], 100, "sides must be 100")]):
            return tf.raw_ops.PlaceholderWithDefault(input=tf.reduce_sum(x, axis=[1, 2]), shape=None)

    module = loaded(tf.function(failing, input_signature=[tf.TensorSpec(OPEN)]))
    with pytest.raises(
        EncoderError, match=r"failed at its first run, __call__ of float32 \(1, 224, 224, 3\)"
    ) as caught:
        images(tf, module)
    assert "sides must be 100" in str(caught.value)


def test_a_long_message_is_shortened_and_an_empty_one_replaced() -> None:
    assert brief(ValueError("a\n  b")) == "a b"
    assert brief(ValueError()) == "ValueError"
    assert len(brief(ValueError("x" * 1000))) == 203
