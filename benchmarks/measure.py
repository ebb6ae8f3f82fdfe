"""The measurements of benchmarks/lookup.py: the true answers, rounds over all points, and fresh processes."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Contestant, Gifdex, K, Search, contestants
from vectors import Vectors

MIN_QUERIES = 200  # per point, for its recall and p99
MIN_SECONDS = 0.2  # per point and round
WARM_UP = 20  # queries
BATCH = 100  # vectors per call in the second sweep
MODES = {"one": "one query per call", "batch": f"{BATCH} queries per call"}
PROBED = 200  # queries before resident memory is read
FRESH_RUNS, WARM_OPENS = 5, 20
ROUNDING = 1e-6
FRESH = """
import importlib, sys, time
for module in sys.argv[3:]:
    importlib.import_module(module)
started = time.perf_counter()
import numpy as np
import gifdex
imported = time.perf_counter()
query = np.load(sys.argv[2])[0]
loaded = time.perf_counter()
index = gifdex.open(sys.argv[1])
opened = time.perf_counter()
index.search(query, 10)
ended = time.perf_counter()
print(*(1000 * (later - sooner) for sooner, later in ((started, imported), (loaded, opened), (opened, ended))))
"""
Row = dict[str, Any]


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def truth(blocks: Iterable[Vectors], queries: Vectors) -> list[set[int]]:
    """Return, for each query, the rows that count among its ten nearest: ten, or more if there are ties."""
    candidates = K + 22
    scores, rows, first = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), 0
    for block in blocks:
        found = queries @ block.T
        best = np.argpartition(-found, min(candidates, found.shape[1] - 1), axis=1)[:, :candidates]
        scores = np.hstack([scores, np.take_along_axis(found, best, axis=1)])
        rows = np.hstack([rows, first + best])
        order = np.argsort(-scores, axis=1)[:, :candidates]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        first += len(block)
    return [set(r[s >= s[K - 1] - ROUNDING].tolist()) for s, r in zip(scores, rows, strict=True)]


def recall(one: Contestant, answers: Iterable[Any], right: Iterable[set[int]]) -> float:
    found = (rows for answer in answers for rows in one.rows(answer))
    shares = (min(len(set(rows) & nearest), K) / K for rows, nearest in zip(found, right, strict=False))
    return statistics.mean(shares)


def calls(queries: Vectors, mode: str) -> list[Vectors]:
    """Return the argument of each call: a vector, or BATCH of them; a shorter last batch is left out."""
    if mode == "one":
        return list(queries)
    return [queries[start : start + BATCH] for start in range(0, len(queries) - BATCH + 1, BATCH)]


def vectors_in(call: Vectors) -> int:
    return 1 if call.ndim == 1 else len(call)


def ask(search: Search, asked: Sequence[Vectors] | Vectors, seconds: float) -> tuple[list[float], list[Any]]:
    """Repeat all calls for MIN_SECONDS, but stop after `seconds` once MIN_QUERIES are done.

    Return each call's seconds, and the first answers.
    """
    vectors = vectors_in(asked[0])
    for call in asked[: max(1, WARM_UP // vectors)]:
        search(call)
    times: list[float] = []
    answers: list[Any] = []
    total = 0.0
    for call in cycle(asked):
        started = time.perf_counter()
        answer = search(call)
        times.append(time.perf_counter() - started)
        total += times[-1]
        if len(answers) < len(asked):
            answers.append(answer)
        every = len(times) >= len(asked) and total >= min(MIN_SECONDS, seconds)
        if every or (len(times) * vectors >= MIN_QUERIES and total > seconds):
            break
    return times, answers


def sweep(
    chosen: list[Contestant], queries: Vectors, right: list[set[int]], rounds: int, seconds: float, mode: str
) -> list[Row]:
    """Measure every point once a round; return the points."""
    asked = calls(queries, mode)
    every = [(one, setting) for one in chosen if one.batches or mode == "one" for setting in one.settings]
    points: list[Row] = []
    times: list[list[list[float]]] = [[] for _ in every]
    for one, setting in every:  # the first round is the warm-up
        _, answers = ask(one.at(setting), asked, seconds)
        count = len(answers) * vectors_in(asked[0])
        points.append(
            {"mode": mode, **description(one, setting), "recall_queries": count, "recall": recall(one, answers, right)}
        )
    for number in range(1, rounds + 1):
        start = number * len(every) // (rounds + 1)
        for place in [*range(start, len(every)), *range(start)]:
            one, setting = every[place]
            times[place].append(ask(one.at(setting), asked, seconds)[0])
        say(f"{MODES[mode]}: round {number} of {rounds} is done")
    return [point | speed(found, vectors_in(asked[0])) for point, found in zip(points, times, strict=True)]


def description(one: Contestant, setting: int | None) -> Row:
    default = False
    if isinstance(one, Gifdex) and one.engine != "exact" and setting is None:
        default, chosen = True, promise(one.index, one.engine)
        assert chosen is not None  # chosen by the build
        setting = chosen["setting"]
    return {
        "contestant": one.name,
        "configuration": one.configuration,
        "ours": one.ours,
        "setting": setting,
        "default": default,
    }


def speed(rounds: list[list[float]], vectors: int) -> Row:
    """Return medians over rounds from the seconds of their calls, each with this many vectors."""
    per_second = [vectors * len(times) / sum(times) for times in rounds]
    return {
        "per_second": statistics.median(per_second),
        "p50_ms": statistics.median(np.percentile(times, 50) for times in rounds) * 1000,
        "p99_ms": statistics.median(np.percentile(times, 99) for times in rounds) * 1000,
        "calls": sum(map(len, rounds)),
        "rounds_per_second": per_second,
    }


def promise(index: Any, engine: str) -> Row | None:
    """Return the setting that the build chose for an engine, and the recall that it measured."""
    known = index.manifest.fields["image"].engines.get(engine)
    if known is None:
        return None
    sentences = known.sentence_recall.at if known.sentence_recall else {}
    return {"setting": known.num_candidates, "recall": known.vector_recall.at, "recall_of_sentences": sentences}


def build_all(chosen: list[Contestant], items: Vectors, queries: Path, rounds: int, folder: Path) -> list[Row]:
    """Build and open each contestant's index; return times and sizes."""
    seconds: dict[str, float] = {}
    built = []
    for one in chosen:
        place = folder / one.store
        if one.store not in seconds:
            place.mkdir()
            started = time.perf_counter()
            one.build(items, place)
            seconds[one.store] = time.perf_counter() - started
            say(f"built {one.store} in {seconds[one.store]:.1f} s")
        one.open(place, items.shape[1])
        if isinstance(one, Gifdex) and one.engine != "exact" and one.engine not in one.index.engines:
            say(f"leaving out {one.name}: this index has the engines {', '.join(one.index.engines)}")
            continue
        probes = [in_fresh_process("--probe", one.title, place, queries) for _ in range(rounds)]
        medians = {key: statistics.median(row[key] for row in probes) for key in probes[0]}
        row = {"contestant": one.name, "configuration": one.configuration, "ours": one.ours}
        row |= {"build_s": seconds[one.store], "bytes": one.bytes_on_disk(place), **medians}
        if isinstance(one, Gifdex):
            row |= {"default_engine": one.index.engine}
            row |= {"promised": promise(one.index, one.engine)}
        built.append(row)
    return built


def resident() -> dict[str, float]:
    """Return this process's resident memory in MiB: anonymous, of mapped files, and the peak of both."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "file": "RssFile", "most": "VmHWM"}
    return {name: int(status[key].split()[0]) / 1024 for name, key in names.items()}


def in_fresh_process(*arguments: object) -> Any:
    """Run lookup.py with these arguments; return the JSON on its last line."""
    command = [sys.executable, str(Path(__file__).with_name("lookup.py")), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def probe(title: str, folder: Path, queries: Path) -> Row:
    """In a fresh process: open an index, query it, and measure memory before and after."""
    contestant = next(one for one in contestants() if one.title == title)
    for module in contestant.modules:
        importlib.import_module(module)
    asked = np.load(queries)[:PROBED]
    before = resident()
    started = time.perf_counter()
    contestant.open(folder, asked.shape[1])
    opened = time.perf_counter() - started
    search = contestant.at(contestant.settings[0 if contestant.ours else len(contestant.settings) // 2])
    for query in asked:
        search(query)
    after = resident()
    return {
        "open_ms": opened * 1000,
        **{f"{kind}_before_mib": before[kind] for kind in ("anonymous", "file")},
        **{f"{kind}_mib": after[kind] - before[kind] for kind in ("anonymous", "file")},
    }


def fresh(index: Path, queries: Path, modules: Iterable[str]) -> Row:
    """Time opening after imports in fresh processes, from import to answer in others, and opening in this process."""
    import gifdex

    (_, opened, _), _ = in_fresh_script(index, queries, *modules)
    (imported, opened_too, asked), process = in_fresh_script(index, queries)
    opens = []
    for _ in range(WARM_OPENS):
        started = time.perf_counter()
        gifdex.open(index)
        opens.append((time.perf_counter() - started) * 1000)
    return {
        "open_after_imports_ms": opened,
        "import_open_query_ms": imported + opened_too + asked,
        "of_which_import_ms": imported,
        "of_which_open_ms": opened_too,
        "of_which_query_ms": asked,
        "process_ms": process,
        "warm_open_ms": statistics.median(opens),
    }


def in_fresh_script(*arguments: object) -> tuple[list[float], float]:
    """Return the median milliseconds that FRESH prints, and those of the whole process."""
    parts: list[list[float]] = []
    for _ in range(FRESH_RUNS + 1):  # the first is the warm-up
        started = time.perf_counter()
        command = [sys.executable, "-c", FRESH, *map(str, arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        parts.append([*map(float, done.stdout.split()), (time.perf_counter() - started) * 1000])
    *medians, process = (statistics.median(values) for values in zip(*parts[1:], strict=True))
    return medians, process
