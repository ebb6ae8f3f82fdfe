"""Projections: their formulas, their file format, and the files that are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gifdex.encoders.projections import KINDS, load, make
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.schemas.errors import ProjectionError

IMAGE, TEXT, JOINT, CLASSES = 7, 5, 4, 3
METADATA = {"image_encoder": {"name": "x", "dimensions": IMAGE}, "note": "é", "scores": [0.5, None, True]}

Tensors = dict[str, NDArray[np.float32]]


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def tensors_of(kind: str, seed: int = 0) -> Tensors:
    tensors = {"image_center": random(IMAGE, seed=seed), "image_map": random(IMAGE, JOINT, seed=seed)}
    if kind == "linear":
        return tensors | {"text_center": random(TEXT, seed=seed), "text_map": random(TEXT, JOINT, seed=seed)}
    return tensors | {
        "text_center": random(JOINT, seed=seed),
        "classifier_weight": random(CLASSES, IMAGE, seed=seed),
        "classifier_bias": random(CLASSES, seed=seed),
        "label_embeddings": random(CLASSES, JOINT, seed=seed),
    }


@pytest.fixture(params=sorted(KINDS))
def projection(request: pytest.FixtureRequest) -> Projection:
    return make(request.param, tensors_of(request.param), METADATA)


def write_safetensors(path: Path, metadata: dict[str, str] | None, tensors: Tensors | None = None) -> Path:
    save_file(tensors_of("linear") if tensors is None else tensors, path, metadata)
    return path


def test_a_loaded_projection_equals_the_saved_one_and_saves_to_the_same_bytes(
    tmp_path: Path, projection: Projection
) -> None:
    projection.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert again.kind == projection.kind
    assert again.metadata == METADATA
    assert again.fingerprint == projection.fingerprint
    assert again.tensors.keys() == projection.tensors.keys()
    for name, tensor in projection.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(order=st.permutations(sorted(tensors_of("zero-shot"))), metadata_order=st.permutations(sorted(METADATA)))
def test_the_order_of_tensors_and_metadata_does_not_matter(order: list[str], metadata_order: list[str]) -> None:
    tensors = tensors_of("zero-shot")
    one = make("zero-shot", tensors, METADATA)
    other = make(
        "zero-shot", {name: tensors[name] for name in order}, {name: METADATA[name] for name in metadata_order}
    )
    assert one.data == other.data


def test_the_memory_layout_of_tensors_does_not_matter(projection: Projection) -> None:
    turned = {name: np.asfortranarray(tensor) for name, tensor in projection.tensors.items()}
    assert make(projection.kind, turned, METADATA).data == projection.data


def test_any_change_of_a_number_or_metadata_changes_the_fingerprint(projection: Projection) -> None:
    others = [make(projection.kind, tensors_of(projection.kind), {**METADATA, "note": "e"})]
    for name in projection.tensors:
        tensors = tensors_of(projection.kind)
        tensors[name].flat[-1] += 1
        others.append(make(projection.kind, tensors, METADATA))
    assert len({projection.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_a_metadata_key_named_kind_does_not_change_the_kind(tmp_path: Path) -> None:
    LinearProjection(tensors_of("linear"), {"kind": "zero-shot"}).save(tmp_path / "p")
    assert load(tmp_path / "p").kind == "linear"


def test_saving_replaces_the_old_file_atomically(tmp_path: Path, projection: Projection) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"old" * 10_000)
    projection.save(path)
    assert path.read_bytes() == projection.data
    assert list(tmp_path.iterdir()) == [path]


def test_sizes_follow_from_the_maps() -> None:
    linear, zero_shot = (make(kind, tensors_of(kind)) for kind in sorted(KINDS))
    assert (linear.image_dimensions, linear.text_dimensions, linear.dimensions) == (IMAGE, TEXT, JOINT)
    assert (zero_shot.image_dimensions, zero_shot.text_dimensions, zero_shot.dimensions) == (IMAGE, JOINT, JOINT)


def test_linear_embeddings_follow_the_formula() -> None:
    t = tensors_of("linear")
    features, vectors = random(6, IMAGE), random(6, TEXT)
    projection = LinearProjection(t)
    for given_rows, embeddings, center, matrix in [
        (features, projection.embed_images(features), t["image_center"], t["image_map"]),
        (vectors, projection.embed_texts(vectors), t["text_center"], t["text_map"]),
    ]:
        for row, embedding in zip(given_rows.astype(np.float64), embeddings, strict=True):
            columns = [sum((row[i] - center[i]) * matrix[i, j] for i in range(len(row))) for j in range(JOINT)]
            expected = np.array(columns)
            np.testing.assert_allclose(embedding, expected / np.linalg.norm(expected), atol=1e-6)


def test_zero_shot_embeddings_follow_the_formula() -> None:
    t = {name: tensor.astype(np.float64) for name, tensor in tensors_of("zero-shot").items()}
    features, vectors = random(6, IMAGE), random(6, JOINT)
    projection = make("zero-shot", tensors_of("zero-shot"))
    for row, embedding in zip(features.astype(np.float64), projection.embed_images(features), strict=True):
        linear = (row - t["image_center"]) @ t["image_map"]
        odds = np.exp(t["classifier_weight"] @ row + t["classifier_bias"])
        mixed = sum(p * label for p, label in zip(odds / odds.sum(), t["label_embeddings"], strict=True))
        both = linear / np.linalg.norm(linear) + mixed / np.linalg.norm(mixed)
        np.testing.assert_allclose(embedding, both / np.linalg.norm(both), atol=1e-6)
    for row, embedding in zip(vectors.astype(np.float64), projection.embed_texts(vectors), strict=True):
        centred = row - t["text_center"]
        np.testing.assert_allclose(embedding, centred / np.linalg.norm(centred), atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    rows=st.integers(0, 4),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_embeddings_are_unit_vectors_at_any_scale(kind: str, rows: int, scale: float, seed: int) -> None:
    projection = make(kind, tensors_of(kind, seed))
    images = projection.embed_images(random(rows, IMAGE, seed=seed) * np.float32(scale))
    texts = projection.embed_texts(random(rows, projection.text_dimensions, seed=seed) * np.float32(scale))
    for embeddings in (images, texts):
        assert embeddings.shape == (rows, JOINT)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, IMAGE + 1), (2, IMAGE - 1), (IMAGE,), (1, 1, IMAGE), (2, 0)])
def test_features_of_another_width_are_refused_with_both_sides(projection: Projection, shape: tuple[int, ...]) -> None:
    with pytest.raises(ProjectionError) as caught:
        projection.embed_images(np.ones(shape, np.float32))
    assert str(shape) in str(caught.value)
    assert f"(n, {IMAGE})" in str(caught.value)


def test_sentence_vectors_of_another_width_are_refused_with_both_sides(projection: Projection) -> None:
    width = projection.text_dimensions
    with pytest.raises(
        ProjectionError, match=rf"sentence vectors of shape \(2, {width + 1}\); expected \(n, {width}\)"
    ):
        projection.embed_texts(np.ones((2, width + 1), np.float32))


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ProjectionError, match=r"kind 'cubic'.*'linear', 'zero-shot'"):
        make("cubic", tensors_of("linear"))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_missing_and_additional_tensors_are_refused(kind: str) -> None:
    for name in tensors_of(kind):
        tensors = tensors_of(kind)
        del tensors[name]
        with pytest.raises(ProjectionError, match=name):
            make(kind, tensors)
    with pytest.raises(ProjectionError, match="bonus"):
        make(kind, tensors_of(kind) | {"bonus": random(2)})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tensors_whose_shapes_do_not_fit_are_refused(kind: str) -> None:
    for name, tensor in tensors_of(kind).items():
        misfits: list[NDArray[np.float32]] = [tensor[None], np.ones(tuple(n + 1 for n in tensor.shape), np.float32)]
        for misfit in misfits:
            with pytest.raises(ProjectionError, match="does not fit"):
                make(kind, tensors_of(kind) | {name: misfit})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_tensor_that_is_not_finite_is_refused_by_name(kind: str, value: float) -> None:
    for name in tensors_of(kind):
        tensors = tensors_of(kind)
        tensors[name].flat[-1] = value
        with pytest.raises(ProjectionError, match=rf"tensor {name} has values that are not finite"):
            make(kind, tensors)


def nothing(path: Path) -> None:
    pass


def bfloat16(path: Path) -> None:
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}, "__metadata__": {"gifdex": "{}"}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


def float64(path: Path) -> None:
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors_of("linear").items()}
    save_file(tensors, path, {"gifdex": '{"kind": "linear"}'})


def claims_a_huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nothing, "No such file"),
        (lambda path: path.mkdir(), "cannot read"),
        (lambda path: path.write_bytes(b""), "expected a safetensors file"),
        (lambda path: path.write_bytes(b"GIF89a not a projection at all"), "expected a safetensors file"),
        (claims_a_huge_header, "expected a safetensors file"),
        # Unreadable unless an import such as TensorFlow's registers the type with numpy.
        (bfloat16, "bfloat16"),
        (float64, "image_center is float64"),
        (lambda path: write_safetensors(path, None), "without a gifdex projection"),
        (lambda path: write_safetensors(path, {"format": "pt"}), "without a gifdex projection"),
        (lambda path: write_safetensors(path, {"gifdex": "{"}), "damaged metadata"),
        (lambda path: write_safetensors(path, {"gifdex": "[" * 100_000}), "damaged metadata"),
        (lambda path: write_safetensors(path, {"gifdex": "[1]"}), "without a kind"),
        (lambda path: write_safetensors(path, {"gifdex": "null"}), "without a kind"),
        (lambda path: write_safetensors(path, {"gifdex": "{}"}), "without a kind"),
        (lambda path: write_safetensors(path, {"gifdex": '{"kind": ["linear"]}'}), "without a kind"),
        (lambda path: write_safetensors(path, {"gifdex": '{"kind": "cubic"}'}), "kind 'cubic'"),
        (lambda path: write_safetensors(path, {"gifdex": '{"kind": "zero-shot"}'}), "was given the tensors"),
    ],
)
def test_a_file_that_is_not_a_projection_is_refused_by_path(
    tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "p.safetensors"
    write(path)
    with pytest.raises(ProjectionError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_projection_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    data = LinearProjection(tensors_of("linear"), METADATA).data
    path = tmp_path_factory.mktemp("cut") / "p"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ProjectionError, match="cannot read the projection"):
        load(path)
