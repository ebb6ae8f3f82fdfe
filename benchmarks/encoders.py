"""How fast the encode stage is: its frames per second against the bare model and the processor's peak.

    python benchmarks/encoders.py CORPUS [--encoder vgg16 --gifs 16] [--precision float32] [--rounds 5] [--json]
    python benchmarks/encoders.py CORPUS --small --encoder efficientnet-lite0   # only tests that it runs

For each encoder and precision, these measurements alternate in one process, after a warm-up; medians are compared:

- `peak`: GFLOP/s of matrix products in that precision: the best of TensorFlow's `matmul`, the same product as a
  1 x 1 convolution and, in float32, numpy's BLAS, over several sizes;
- `bare`: Keras' `model(x)` in a loop on preprocessed arrays;
- `compiled`: the same in a tf.function;
- `encoder`: our encoder on uint8 frames;
- `step`: the whole encode stage of a build on the corpus: plan, FnApiRunner, read, decode, sample, infer, pool, write,
  check. It counts decoded frames, without the padding of the last batch.

vgg16 gets random weights unless --weights names a file; the speed is the same. A model's GFLOP/s count the
multiplications and additions of its convolutions and matrix products.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KINDS = ("peak", "bare", "compiled", "encoder", "step")
SIZES = ((2048, 2048, 2048), (4096, 4096, 4096), (25088, 4608, 512))  # m, k, n; the last is a layer of VGG16
SECONDS = 2.0  # approximate length of each measurement except `step`
SMALL_SIZES, SMALL_SECONDS = ((64, 64, 64),), 0.02
Measurement = Callable[[], float]


def repeated(run: Callable[[], Any], worth: float, seconds: float) -> Measurement:
    """Return a function that measures the work per second of `run`, which does `worth` units of work per call."""

    def measure() -> float:
        times = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds or not times:
            run()
            times += 1
        return times * worth / elapsed

    return measure


def flops(model: Any) -> float:
    """Return the number of multiplications and additions in the convolutions and matrix products for one frame."""
    total = 0.0
    for layer in model.layers:
        if (kernel := getattr(layer, "kernel", None)) is not None:
            places = math.prod(layer.output.shape[1:-1])  # 1 for a matrix product
            total += 2.0 * places * math.prod(kernel.shape)
    return total


def peak(tf: Any, precision: str, sizes: Sequence[tuple[int, int, int]], seconds: float) -> Measurement:
    import numpy as np

    def products(m: int, k: int, n: int) -> list[Callable[[], Any]]:
        a, b = (tf.cast(tf.random.normal(shape), precision) for shape in ((m, k), (k, n)))
        image, kernel = tf.reshape(a, (1, m // 32, 32, k)), tf.reshape(b, (1, 1, k, n))
        matmul = tf.function(lambda x: tf.matmul(x, b), autograph=False)
        convolution = tf.function(lambda x: tf.nn.conv2d(x, kernel, 1, "VALID"), autograph=False)
        found: list[Callable[[], Any]] = [lambda: matmul(a), lambda: convolution(image)]
        if precision == "float32":
            one, other = a.numpy(), b.numpy()
            found.append(lambda: np.matmul(one, other))
        return found

    runs = [(2.0 * m * k * n / 1e9, run) for m, k, n in sizes for run in products(m, k, n)]
    for _, run in runs:
        run()
    return lambda: max(repeated(run, worth, seconds / 4)() for worth, run in runs)


def encode_step(corpus: str, gifs: int, settings: Any, folder: Path) -> Measurement:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from apache_beam.utils.shared import Shared

    from gifdex.pipeline.corpus import list_corpus
    from gifdex.pipeline.encode import acquire_encoder, encode_missing, look_up, open_cache
    from gifdex.pipeline.scan import scan_file
    from gifdex.pipeline.settings import BuildSettings
    from gifdex.pipeline.workspace import Workspace
    from gifdex.schemas import tables
    from gifdex.schemas.progress import QUIET

    entries = list_corpus(corpus).entries[:gifs]
    rows = [{"uri": e.uri, **scan_file(e, None, settings.limits)} for e in entries]
    catalog = pa.Table.from_pylist([row for row in rows if "error" not in row], schema=tables.CATALOG)
    shared = Shared()
    encoder = acquire_encoder(settings, shared)  # reused, so that every round has the same model

    def measure() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            build = BuildSettings(corpus, Path(name), encode=settings)
            cache = open_cache(Workspace(Path(name)), encoder, settings)
            started = time.perf_counter()
            encode_missing(look_up(catalog, cache), build, cache, encoder, shared, QUIET)
            elapsed = time.perf_counter() - started
            parts = cache.folder.glob("*/*.parquet")
            frames = sum(sum(pq.ParquetFile(part).read(["frames"])["frames"].to_pylist()) for part in parts)
        return frames / elapsed

    return measure


def random_weights(folder: Path) -> Path:
    from gifdex.encoders.tensorflow.runtime import import_tensorflow

    path = folder / "random.weights.h5"
    import_tensorflow("a benchmark").keras.applications.VGG16(weights=None).save_weights(path)
    return path


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one encoder in one precision, in this process."""
    import numpy as np

    from gifdex.encoders.base import ImageEncoderOptions
    from gifdex.encoders.images.frame_model import in_precision
    from gifdex.encoders.registry import image_encoder
    from gifdex.encoders.settings import EncodeSettings
    from gifdex.encoders.tensorflow.runtime import import_tensorflow
    from gifdex.schemas.errors import EncoderError

    tf = import_tensorflow("a benchmark")
    name, precision, batch = arguments.encoder[0], arguments.precision[0], arguments.batch_frames
    encoder: Any = image_encoder(name, ImageEncoderOptions(arguments.weights, precision, batch))
    frames = np.random.default_rng(0).integers(0, 256, (batch, *encoder.frame_size, 3), np.uint8)
    try:
        encoder(frames)
    except EncoderError as err:
        return {"encoder": name, "precision": precision, "refused": str(err)}
    model = encoder._build(tf.keras)
    per_frame = flops(model) / 1e9
    model = model if precision == "float32" else in_precision(tf.keras, model, precision)
    ready = tf.constant(encoder._preprocess(tf, tf.cast(frames, tf.float32)))
    compiled = tf.function(lambda x: model(x, training=False), autograph=False)
    sizes, seconds = (SMALL_SIZES, SMALL_SECONDS) if arguments.small else (SIZES, SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        settings = EncodeSettings(name, arguments.weights, precision, batch)
        kinds: dict[str, Measurement] = {
            "peak": peak(tf, precision, sizes, seconds),
            "bare": repeated(lambda: model(ready).numpy(), batch, seconds),
            "compiled": repeated(lambda: compiled(ready).numpy(), batch, seconds),
            "encoder": repeated(lambda: encoder(frames), batch, seconds),
            "step": encode_step(arguments.corpus, arguments.gifs, settings, Path(folder)),
        }
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(arguments.rounds + 1):  # the first is the warm-up
            for kind in KINDS if number % 2 else KINDS[::-1]:
                value = kinds[kind]()
                print(f"{name} {precision} round {number}: {kind} {value:.1f}", file=sys.stderr)
                if number:
                    found[kind].append(value)
    medians = {kind: round(statistics.median(values), 2) for kind, values in found.items()}
    return {
        "encoder": name,
        "precision": precision,
        "batch_frames": batch,
        "gflop_per_frame": round(per_frame, 2),
        "peak_gflops": medians.pop("peak"),
        **{f"{kind}_frames_per_s": value for kind, value in medians.items()},
        "step_to_bare": round(medians["step"] / medians["bare"], 3),
        "step_to_compiled": round(medians["step"] / medians["compiled"], 3),
        "encoder_to_peak": round(medians["encoder"] * per_frame / statistics.median(found["peak"]), 3),
        "step_to_peak": round(medians["step"] * per_frame / statistics.median(found["peak"]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="a folder of GIFs for the encode stage")
    parser.add_argument("--encoder", action="append", help="default: vgg16 and efficientnet-lite0")
    parser.add_argument("--precision", action="append", help="default: float32 and bfloat16")
    parser.add_argument("--gifs", type=int, default=64, help="number of GIFs for the encode stage (default: 64)")
    parser.add_argument("--batch-frames", type=int, default=32)
    parser.add_argument("--weights", type=Path, help="for vgg16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="measure only briefly, on small matrices")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    options = ["--gifs", arguments.gifs, "--batch-frames", arguments.batch_frames, "--rounds", arguments.rounds]
    options += ["--small"] if arguments.small else []
    with tempfile.TemporaryDirectory() as folder:
        for encoder in arguments.encoder or ["vgg16", "efficientnet-lite0"]:
            weights = [] if encoder != "vgg16" else ["--weights", arguments.weights or random_weights(Path(folder))]
            for precision in arguments.precision or ["float32", "bfloat16"]:
                one = [
                    arguments.corpus,
                    "--encoder",
                    encoder,
                    "--precision",
                    precision,
                    *weights,
                    *options,
                    "--measure",
                ]
                command = [sys.executable, __file__, *map(str, one)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
                result = json.loads(done.stdout.splitlines()[-1])
                if arguments.json:
                    print(json.dumps(result))
                    continue
                for key, value in result.items():
                    print(f"{key:24} {value:,}" if isinstance(value, float | int) else f"{key:24} {value}")
                print()


if __name__ == "__main__":
    main()
