from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.utils.shared import Shared
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.base import ImageEncoder
from gifdex.encoders.feature_cache import FeatureCache, Outcome
from gifdex.encoders.features import features_fingerprint, features_recipe, load
from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.limits import SAMPLING_STRATEGIES, Limits, Sampling
from gifdex.encoders.registry import image_encoder
from gifdex.encoders.settings import EncodeSettings
from gifdex.pipeline.encode import (
    Encoded,
    RunEncodeTask,
    Source,
    acquire_encoder,
    encode_missing,
    look_up,
    open_cache,
    plan_encode,
    reader,
)
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas import tables
from gifdex.schemas.errors import EncoderError
from gifdex.schemas.progress import QUIET

GifMaker = Callable[..., Path]
CACHE = FeatureCache(Path("/nowhere/features"), "f" * 16, 3, "decoder 1")

SOURCES = st.lists(st.integers(0, 2**40), unique=True, max_size=400).map(
    lambda numbers: [Source(hashlib.sha256(str(n).encode()).hexdigest(), f"/gifs/{n}.gif") for n in numbers]
)


@given(SOURCES, st.integers(1, 70), st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_plan_has_every_key_once_in_tasks_of_one_partition(
    sources: list[Source], task_items: int, shuffler: random.Random
) -> None:
    tasks = plan_encode(sources, task_items, CACHE)
    assert [source for task in tasks for source in task.sources] == sorted(sources, key=lambda s: s.sha256)
    assert len({task.output for task in tasks}) == len(tasks)
    for task in tasks:
        assert 1 <= task.items <= task_items
        assert all(source.sha256.startswith(task.partition) for source in task.sources)
        assert task.output.parent.name == (task.partition or "all")
    shuffled = list(sources)
    shuffler.shuffle(shuffled)
    assert plan_encode(shuffled, task_items, CACHE) == tasks


def test_a_small_corpus_is_still_split_into_several_tasks() -> None:
    sources = [Source(hashlib.sha256(bytes([n])).hexdigest(), str(n)) for n in range(128)]
    assert [task.items for task in plan_encode(sources, 500, CACHE)] == [16] * 8


def test_retried_keys_get_a_new_part_name(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "f" * 16, 3, "decoder 1")
    sources = [Source("a" * 64, "/a.gif")]
    names = set()
    for _ in range(3):
        (task,) = plan_encode(sources, 10, cache)
        cache.commit(task.output, [Outcome("a" * 64, 0, None, "OSError", "gone", lasting=False)])
        names.add(task.output)
    assert len(names) == 3


def test_a_missing_or_changed_file_is_a_reject_that_does_not_last(make_gif: GifMaker) -> None:
    path = make_gif("a.gif")
    source = Source(hashlib.sha256(path.read_bytes()).hexdigest(), str(path))
    path.write_bytes(b"GIF89a")
    decode = FrameDecoder()
    changed = load((source.sha256, reader(source, 100)), EncodeSettings(), (8, 8), decode)
    path.unlink()
    gone = load((source.sha256, reader(source, 100)), EncodeSettings(), (8, 8), decode)
    for outcome, error, reason in [
        (changed, "ChangedFileError", "changed while the corpus was indexed"),
        (gone, "FileNotFoundError", "cannot read the file"),
    ]:
        assert isinstance(outcome, Outcome)
        assert (outcome.sha256, outcome.error, outcome.lasting) == (source.sha256, error, False)
        assert reason in (outcome.reason or "")


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return image_encoder()


def test_features_take_precedence_over_a_lasting_reject(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "f" * 16, 3, "decoder 1")
    one, two = "a" * 64, "b" * 64
    refused = [Outcome(key, 0, None, "LimitError", "too large") for key in (one, two)]
    cache.commit(cache.part("", "one"), refused)
    features = [Outcome(one, 4, np.asarray([1, 2, 3], np.float32))]  # with other limits, in between
    cache.commit(cache.part("", "two"), features)
    rows = [{"id": k[0], "uri": f"/{k[0]}.gif", "sha256": k, "size": 1, "modified": 1.0} for k in (one, two)]
    catalog = pa.Table.from_pylist(rows, schema=tables.CATALOG)
    settings, shared = BuildSettings("/corpus", tmp_path), Shared()
    encoder = acquire_encoder(settings.encode, shared)
    done = encode_missing(look_up(catalog, cache), settings, cache, encoder, shared, QUIET)
    assert done == Encoded({two: ("LimitError", "too large")}, {}, tried=0, encoded=0, reused=2)


def test_only_settings_that_affect_features_change_the_cache(encoder: ImageEncoder) -> None:
    def cache(settings: EncodeSettings) -> FeatureCache:
        return open_cache(Workspace(Path("/ws")), encoder, settings)

    usual = cache(EncodeSettings())
    how = cache(EncodeSettings(batch_frames=3, threads=1, task_items=5))
    assert (how.fingerprint, how.attempt) == (usual.fingerprint, usual.attempt)
    samplings = [Sampling(4), *(Sampling(strategy=strategy) for strategy in SAMPLING_STRATEGIES)]
    names = [cache(EncodeSettings(sampling=sampling)).fingerprint for sampling in samplings]
    assert names[1] == usual.fingerprint == cache(EncodeSettings(sampling=Sampling(8))).fingerprint
    assert len(set(names)) == len(names)
    decoders = {name: cache(EncodeSettings(decoder=name)).fingerprint for name in registry.decoder_names()}
    assert decoders["auto"] == decoders["numba"] == decoders["pillow"] == usual.fingerprint
    assert len({usual.fingerprint, decoders["imageio"], decoders["pyav"]}) == 3
    precise = [EncodeSettings(precision=name) for name in ("float32", "bfloat16", "float16")]
    precisions = [features_fingerprint(image_encoder(options=one.encoder_options), one) for one in precise]
    assert precisions[0] == usual.fingerprint
    assert len(set(precisions)) == 3
    limited = cache(EncodeSettings(limits=Limits(frames=5)))
    assert limited.fingerprint == usual.fingerprint
    assert limited.attempt != usual.attempt
    assert features_recipe(encoder, EncodeSettings())["image_encoder"]["fingerprint"] == encoder.fingerprint


def test_a_worker_whose_encoder_differs_from_the_plan_refuses_to_write(tmp_path: Path) -> None:
    """This happens when its environment names other weights or it picks another precision."""
    planned, shared = EncodeSettings(precision="bfloat16"), Shared()
    cache = open_cache(Workspace(tmp_path), acquire_encoder(planned, shared), planned)
    RunEncodeTask(planned, cache, shared).setup()
    with pytest.raises(EncoderError, match=f"but the run was planned for {cache.fingerprint}"):
        RunEncodeTask(EncodeSettings(precision="float32"), cache, Shared()).setup()
