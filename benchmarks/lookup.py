"""Our engines and other libraries: recall@10 against queries per second, and the cost of the indexes.

    python benchmarks/lookup.py [--data 10k 100k glove] [--rounds 3] [--json FILE] [--plot FILE]
    python benchmarks/lookup.py --million
    python benchmarks/plots.py 10k.json 100k.json glove.json picture.png

Data sets are 10k and 100k (x 1024, the mixture of benchmarks/vectors.py), glove (400,000 words x 50, of which 1,000
are held out as queries), and other mixtures by shape, such as 2000x128. All vectors have length one, and scores are
cosines.

Everything runs in one thread. As in a service, a query is one call with one vector that asks for 10 items:

- a second sweep sends the same queries in calls of 100 vectors, still in one thread, to every contestant that has
  such a call (plain annoy has none);
- gifdex answers through the public `index.search`, with Hit objects that have ids, URIs and exact scores; the others
  answer with row numbers and distances. `exact` is `search(exact=True)`;
- annoy gets its query as a list, which it reads 1.8 times as fast as an array; the call includes making the list;
- the graphs have M links and an ef_construction of 200, the default of hnswlib and voyager. faiss, hnswlib and
  voyager store float32, usearch float16;
- libraries that can map their files do so (annoy, faiss, usearch, gifdex); the others read them.

Each index is built once. The build time covers everything from the float32 array in memory to files on disk; for
gifdex, this includes the copy of the vectors, the items, the reduction, the tuning and the checksums. annoy, scan and
exact share one build. hnsw has a second build, which also contains Annoy's trees: the build time includes them, the
size does not. Indexes are opened from disk in fresh processes after their imports, which measure the open time and,
after 200 queries, resident memory; then in this process, which measures the queries. The fresh processes use the
setting that our build chose, or the middle one of a library's sweep. --fresh times three ways to open our indexes: in
fresh processes after the imports, from `import gifdex` to the first answer, and in this process.

A point is a contestant in one configuration with one setting. Each round measures all points of a sweep once, in a
rotating order, after a few warm-up queries; a round before the first one warms up and measures recall. A point runs
every query, and repeats them until 0.2 seconds have passed; it stops early after --seconds, but not before 200
queries. The results are medians over the rounds. A hit counts for recall if its true score is at least the tenth true
score minus 1e-6. Our settings end at a quarter of the items.

--json is rewritten after each data set, so an interrupted run loses only the current one. Data sets may also have
runs and files of their own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import importlib
import json
import platform
import re
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from contestants import Contestant, K, contestants
from measure import BATCH, MIN_QUERIES, MODES, Row, build_all, fresh, in_fresh_process, probe, say, sweep, truth
from million import million, show_million
from report import compare, show
from vectors import BLOCK, Mixture, Vectors, glove, make

DATA = {"10k": "10000x1024", "100k": "100000x1024", "glove": "glove"}
MILLION = "1000000x256"
LIBRARIES = ("gifdex", "numpy", "annoy", "faiss-cpu", "hnswlib", "usearch", "voyager")


def load(name: str, queries: int) -> tuple[Vectors, Vectors]:
    shape = DATA.get(name, name)
    if shape == "glove":
        return glove(queries)
    return make(*dimensions(shape), queries)


def tuning_queries(name: str) -> Vectors | None:
    """Return other queries of the same kind for tuning our engines; GloVe has none, so only items are used."""
    shape = DATA.get(name, name)
    return None if shape == "glove" else Mixture(*dimensions(shape)).tuning_queries()


def dimensions(shape: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", shape)
    if found is None:
        raise SystemExit(f"there is no data set {shape}; expected {', '.join(DATA)}, or a shape such as 2000x128")
    return int(found[1]), int(found[2])


def installed(chosen: list[Contestant]) -> list[Contestant]:
    missing = set()
    for module in dict.fromkeys(module for one in chosen for module in one.modules):
        try:
            importlib.import_module(module)
        except ImportError as err:
            say(f"leaving out {module}: {err}")
            missing.add(module)
    return [one for one in chosen if missing.isdisjoint(one.modules)]


def data_set(name: str, arguments: argparse.Namespace, folder: Path) -> Row:
    items, queries = load(name, arguments.queries)
    say(f"{name}: {len(items):,} items of {items.shape[1]} dimensions, {len(queries)} queries")
    links = (16, 32) if arguments.thorough and name != "glove" else (16,)
    every = contestants(links, len(items), tuning_queries(name))
    chosen = installed([one for one in every if not arguments.only or one.name in arguments.only])
    asked = folder / "queries.npy"
    np.save(asked, queries)
    right = truth((items[start : start + BLOCK] for start in range(0, len(items), BLOCK)), queries)
    built = build_all(chosen, items, asked, arguments.rounds, folder)
    names = {row["contestant"] for row in built}
    chosen = [one for one in chosen if one.name in names]
    points: list[Row] = []
    for mode in MODES:
        points += sweep(chosen, queries, right, arguments.rounds, arguments.seconds, mode)
    result = {
        "items": len(items),
        "dimensions": items.shape[1],
        "queries": len(queries),
        "builds": built,
        "points": points,
        "at_recall": compare(points, built),
    }
    if arguments.fresh:
        stores = {one.store: one.modules for one in chosen if one.ours}
        result["fresh"] = {store: fresh(folder / store, asked, modules) for store, modules in stores.items()}
    return result


def machine() -> Row:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"processor": processor(), "cpus": os.cpu_count(), "python": platform.python_version(), **versions}


def processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def settings(arguments: argparse.Namespace) -> Row:
    names = ("rounds", "queries", "seconds", "only", "thorough", "fresh")
    return {"k": K, "batch": BATCH, "threads": 1, **{name: getattr(arguments, name) for name in names}}


def parse() -> argparse.Namespace:
    names = dict.fromkeys(one.name for one in contestants())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="NAME", help="10k, 100k, glove (default: all), 2000x128 ...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=3.0, help="maximum per point and round (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CONTESTANT", help=f"of {', '.join(names)}")
    parser.add_argument("--thorough", action="store_true", help="also graphs with M=32, except for glove")
    parser.add_argument("--fresh", action="store_true", help="also time import, open and query in fresh processes")
    parser.add_argument(
        "--million", nargs="?", const=MILLION, metavar="SHAPE", help=f"build {MILLION}; only that, without --data"
    )
    parser.add_argument("--folder", type=Path, help="for temporary files")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--plot", type=Path, help="plot them to this PNG (needs matplotlib)")
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.queries < MIN_QUERIES:
        raise SystemExit(f"--queries is {arguments.queries}; expected at least {MIN_QUERIES}")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    if arguments.plot:
        from plots import draw  # fail before the measurements if matplotlib is missing
    results: Row = {"machine": machine(), "settings": settings(arguments), "data": {}}
    for part in ("machine", "settings"):
        print(", ".join(f"{key} {value}" for key, value in results[part].items()))
    print()
    for name in arguments.data or ([] if arguments.million else DATA):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results["data"][name] = data_set(name, arguments, Path(folder))
        show(name, results["data"][name])
        write(results, arguments.json)
    if arguments.million:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results["million"] = in_fresh_process("--million", arguments.million, "--in-folder", folder)
        show_million(results["million"])
        write(results, arguments.json)
    if arguments.plot and results["data"]:
        draw(results["data"], arguments.plot)


def write(results: Row, path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    arguments = parse()
    if arguments.probe:
        title, folder, queries = arguments.probe
        print(json.dumps(probe(title, Path(folder), Path(queries))))
    elif arguments.in_folder:
        mixture = Mixture(*dimensions(arguments.million))
        print(json.dumps(million(mixture, arguments.in_folder, MIN_QUERIES, arguments.seconds)))
    else:
        run(arguments)


if __name__ == "__main__":
    main()
