"""What Beam costs: the encode stage of `gifdex build` against a plain loop over the same files.

    python benchmarks/encode.py CORPUS [--rounds 5] [--json]

Both read, decode, sample and resize with the same code, fill batches of 32 frames across GIFs for the same model, pool
the features, and write Parquet. The plain loop does this sequentially in one thread. The encode stage is that of a
build: plan, FnApiRunner, decoding threads, one committed part file per task, and the check of the results. Each
measurement runs in a new process, to measure its peak memory. The time includes building the model, but not imports and
one warm-up batch with another copy of the model. The two alternate, and medians are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("build", "loop")
Features = dict[str, Any]  # SHA-256 of a GIF -> its pooled features


def run_build(corpus: str, folder: Path) -> Callable[[], Features]:
    import numpy as np
    import pyarrow as pa
    from apache_beam.utils.shared import Shared

    from gifdex.pipeline.corpus import list_corpus
    from gifdex.pipeline.encode import acquire_encoder, encode_missing, look_up, open_cache
    from gifdex.pipeline.scan import scan_file
    from gifdex.pipeline.settings import BuildSettings
    from gifdex.pipeline.workspace import Workspace
    from gifdex.schemas import tables
    from gifdex.schemas.progress import QUIET

    settings = BuildSettings(corpus, folder)
    # Scanned without a pipeline, so that the measurement includes starting the runner.
    rows = [{"uri": e.uri, **scan_file(e, None, settings.encode.limits)} for e in list_corpus(corpus).entries]
    catalog = pa.Table.from_pylist([row for row in rows if "error" not in row], schema=tables.CATALOG)

    def measured() -> Features:
        shared = Shared()
        encoder = acquire_encoder(settings.encode, shared)
        cache = open_cache(Workspace(folder), encoder, settings.encode)
        encoded = encode_missing(look_up(catalog, cache), settings, cache, encoder, shared, QUIET)
        keys = sorted(set(catalog["sha256"].to_pylist()) - set(encoded.rejects))
        return dict(zip(keys, cache.features(keys).astype(np.float32), strict=True))

    return measured


def run_loop(corpus: str, folder: Path) -> Callable[[], Features]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gifdex.encoders.frames.decode import FrameDecoder
    from gifdex.encoders.registry import image_encoder
    from gifdex.encoders.settings import EncodeSettings
    from gifdex.schemas.errors import DecodeError

    settings, decode = EncodeSettings(), FrameDecoder()
    files = sorted(path for path in Path(corpus).rglob("*") if path.suffix.lower() == ".gif")

    def measured() -> Features:
        encoder = image_encoder(settings.image_encoder)
        pooled: dict[str, np.ndarray] = {}
        frames: list[np.ndarray] = []
        owners: list[tuple[str, float]] = []

        def run_model(count: int) -> None:
            for (key, weight), row in zip(owners[:count], encoder(np.stack(frames[:count])), strict=True):
                pooled[key] += weight * row
            del frames[:count], owners[:count]

        for file in files:
            data = file.read_bytes()
            key = hashlib.sha256(data).hexdigest()
            if key in pooled:
                continue
            try:
                sampled = decode(data, settings.sampling, encoder.frame_size, settings.limits)
            except DecodeError:
                continue
            pooled[key] = np.zeros(encoder.dimensions, np.float32)
            frames.extend(sampled.frames)
            owners.extend((key, float(weight)) for weight in sampled.weights)
            while len(frames) >= encoder.batch_frames:
                run_model(encoder.batch_frames)
        if frames:
            run_model(len(frames))
        table = pa.table({"sha256": list(pooled), "features": [vector.tobytes() for vector in pooled.values()]})
        pq.write_table(table, folder / "features.parquet")
        return pooled

    return measured


def measure(kind: str, corpus: str) -> None:
    """Run one measurement in this process and print it as JSON."""
    import numpy as np

    from gifdex.encoders.registry import image_encoder

    image_encoder()(np.zeros((32, 224, 224, 3), np.uint8))  # TensorFlow starts its threads and compiles its kernels
    with tempfile.TemporaryDirectory() as folder:
        measured = {"build": run_build, "loop": run_loop}[kind](corpus, Path(folder))
        wall, cpu = time.perf_counter(), time.process_time()
        features = measured()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = float(np.sum([np.abs(vector).sum(dtype=np.float64) for vector in features.values()]))
    print(json.dumps({"gifs": len(features), "sum": total, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}))


def compare(corpus: str, rounds: int) -> dict[str, float]:
    """Alternate both kinds and return medians and ratios (encode stage / plain loop)."""
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            command = [sys.executable, __file__, corpus, "--measure", kind]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[kind].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1} of {rounds}: {kind} {results[kind][-1]}", file=sys.stderr)
    for name, tolerance in (("gifs", 0.0), ("sum", 1e-5)):  # otherwise they did not do the same work
        values = [result[name] for kind in KINDS for result in results[kind]]
        if max(values) - min(values) > tolerance * max(values):
            raise SystemExit(f"the two do not give the same features: {name} {sorted(set(values))}")
    summary: dict[str, float] = {"gifs": results["loop"][0]["gifs"], "rounds": rounds}
    for name in ("wall_s", "cpu_s", "peak_mib"):
        for kind in KINDS:
            summary[f"{kind}_{name}"] = round(statistics.median(r[name] for r in results[kind]), 3)
        summary[f"ratio_{name}"] = round(summary[f"build_{name}"] / summary[f"loop_{name}"], 3)
    for kind in KINDS:
        summary[f"{kind}_gifs_per_s"] = round(summary["gifs"] / summary[f"{kind}_wall_s"], 2)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="a folder of GIFs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.corpus)
        return
    summary = compare(arguments.corpus, arguments.rounds)
    if arguments.json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name:18} {value:,}")


if __name__ == "__main__":
    main()
