"""Our engines and other libraries: recall@10 against queries a second, and what the indexes cost.

    python benchmarks/lookup.py [--data 10k 100k glove] [--rounds 3] [--json FILE] [--plot FILE]
    python benchmarks/lookup.py --million
    python benchmarks/plots.py 10k.json 100k.json glove.json picture.png

Data sets are 10k and 100k (x 1024, the mixture of benchmarks/vectors.py), glove (400,000 words x 50, of which 1,000
are held out as queries), and any other mixture as 2000x128. All vectors have length one, and scores are cosines.

Everything runs in one thread. A query is one vector and one call that asks for 10 items, as a service has it:

- a second sweep asks the same queries in calls of 100 vectors, still in one thread, of whatever has such a call
  (plain annoy has none);
- gifdex answers through the public `index.search`, with Hit objects that carry ids, URIs and exact scores; the
  others with row numbers and distances. `exact` is `search(exact=True)`;
- annoy gets its query as a list, which it reads 1.8 times as fast as an array; making the list is part of the call;
- the graphs have M links and an ef_construction of 200, the default of hnswlib and voyager. faiss, hnswlib and
  voyager keep float32, usearch float16;
- files are mapped where a library can (annoy, faiss, usearch, gifdex), else read.

An index is built once, and its build seconds count everything from the float32 array in memory to files on disk:
for gifdex also the copy of the vectors, the items, the reduction, the tuning and the checksums. annoy, scan and
exact are of one build, hnsw of a second one, which holds Annoy's trees too: its seconds are the whole second build,
its bytes leave the trees out. What was built is opened from disk, in fresh processes that have imported what it
takes (open time, and resident memory after 200 queries at the setting that our build chose, or in the middle of the
others' sweep) and in this one, which asks the queries. --fresh times three ways to open an index of ours: in fresh
processes that have imported what it takes, in others from `import gifdex` to one query's answer, and in this one.

Each point (contestant, configuration, setting) is measured once a round, after some queries to warm up, and the
rounds go over all points of a sweep, in an order that moves on; a round before the first one warms up and gives
the recall. A point's round asks every query, and again until 0.2 seconds have passed; or it ends after --seconds,
but not before 200 queries. Reported are medians over the rounds. A hit counts for recall if its true score is at
least the tenth true score less 1e-6. Our settings end at a quarter of the items.

--json is written again after each data set, so that a run that is cut short loses only the one it was at; data sets
may have runs and files of their own too.
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
    """Return other queries of the same kind, for our builds to tune with; for GloVe they tune with items alone."""
    shape = DATA.get(name, name)
    return None if shape == "glove" else Mixture(*dimensions(shape)).tuning_queries()


def dimensions(shape: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", shape)
    if found is None:
        raise SystemExit(f"there are no data {shape}; expected {', '.join(DATA)}, or a shape such as 2000x128")
    return int(found[1]), int(found[2])


def installed(chosen: list[Contestant]) -> list[Contestant]:
    missing = set()
    for module in dict.fromkeys(module for one in chosen for module in one.modules):
        try:
            importlib.import_module(module)
        except ImportError as err:
            say(f"{module} is left out: {err}")
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
    parser.add_argument("--seconds", type=float, default=3.0, help="of a point in a round (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CONTESTANT", help=f"of {', '.join(names)}")
    parser.add_argument("--thorough", action="store_true", help="graphs of M=32 too, but not for glove")
    parser.add_argument("--fresh", action="store_true", help="also time import, open and query in fresh processes")
    parser.add_argument(
        *("--million",), nargs="?", const=MILLION, metavar="SHAPE", help=f"build {MILLION}; alone without --data"
    )
    parser.add_argument("--folder", type=Path, help="for temporary files")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--plot", type=Path, help="draw it into this PNG (needs matplotlib)")
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
