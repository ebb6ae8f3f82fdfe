"""Choose points for the tables of benchmarks/lookup.py, and print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from measure import BATCH, MODES, Row

RECALLS = (0.95, 0.97, 0.99)


def frontier(points: list[Row]) -> list[Row]:
    """Return a contestant's Pareto front, by ascending recall."""
    undominated: list[Row] = []
    for point in sorted(points, key=lambda row: (-row["recall"], -row["per_second"])):
        if not undominated or point["per_second"] > undominated[-1]["per_second"]:
            undominated.append(point)
    return undominated[::-1]


def by_contestant(points: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for point in points:
        found.setdefault(point["contestant"], []).append(point)
    return found


def fastest(points: list[Row], min_recall: float) -> dict[str, Row]:
    """Return each contestant's fastest point with at least this recall."""
    best = {}
    for name, of_one in by_contestant(points).items():
        if able := [point for point in of_one if point["recall"] >= min_recall]:
            best[name] = max(able, key=lambda point: point["per_second"])
    return best


def compare(points: list[Row], built: list[Row]) -> list[Row]:
    """Return each contestant's fastest point at each of RECALLS, and the ratios of ours to the fastest peers."""
    builds = {(row["contestant"], row["configuration"]): row for row in built}
    rows = []
    for mode in MODES:
        for min_recall in RECALLS:
            best = fastest([point for point in points if point["mode"] == mode], min_recall)
            for point in best.values():
                build = builds[point["contestant"], point["configuration"]]
                keys = ("mode", "contestant", "configuration", "setting", "ours", "recall", "per_second")
                row = {"at": min_recall, **{key: point[key] for key in keys}}
                row |= {"build_s": build["build_s"], "bytes": build["bytes"]}
                rows.append(row | (to_peers(row, best, builds) if row["ours"] else {}))
    return rows


def to_peers(row: Row, best: dict[str, Row], builds: dict[tuple[str, str], Row]) -> Row:
    """Return our engine's speed relative to the best peer and to annoy, and the build times' ratio."""
    found: Row = {}
    peers = [point for point in best.values() if not point["ours"]]
    if peer := max(peers, key=lambda point: point["per_second"], default=None):
        build = builds[peer["contestant"], peer["configuration"]]
        found["best_peer"] = f"{peer['contestant']} {peer['configuration']}".strip()
        found["to_best_peer"] = row["per_second"] / peer["per_second"]
        found["best_peer_build_to_ours"] = build["build_s"] / row["build_s"]
    if "annoy" in best:
        found["to_annoy"] = row["per_second"] / best["annoy"]["per_second"]
    return found


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 2) -> None:
    """Print rows under their header; all but the first `left` columns are numbers."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [c.ljust(w) if n < left else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(padded).rstrip())
    print()


def show(name: str, result: Row) -> None:
    print(f"{name}: {result['items']:,} items of {result['dimensions']} dimensions, {result['queries']} queries\n")
    for mode in MODES:
        show_points(result["points"], mode)
    show_builds(result["builds"])
    for mode in MODES:
        show_at_recall(result["at_recall"], mode)
    show_annoy(result["at_recall"])
    show_fresh(result.get("fresh", {}))


def show_points(points: list[Row], mode: str) -> None:
    rows = []
    for of_one in by_contestant([point for point in points if point["mode"] == mode]).values():
        shown = frontier(of_one)
        shown += [point for point in of_one if point["default"] and point not in shown]
        for point in sorted(shown, key=lambda point: point["recall"]):
            setting = setting_of(point) + (" (default)" if point["default"] else "")
            row = [point["contestant"], point["configuration"], setting, f"{point['recall']:.4f}"]
            row += [f"{point['per_second']:,.0f}", f"{point['p50_ms']:.3f}"]
            rows.append([*row, f"{point['p99_ms']:.3f}"] if mode == "one" else row)
    times = ("p50 ms", "p99 ms") if mode == "one" else (f"p50 ms of {BATCH}",)
    print(f"{MODES[mode]}:")
    print_table(("contestant", "configuration", "setting", "recall@10", "queries/s", *times), rows, 3)


def setting_of(row: Row) -> str:
    return "" if row["setting"] is None else str(row["setting"])


def show_builds(builds: list[Row]) -> None:
    rows = [
        [
            *(row["contestant"], row["configuration"], f"{row['build_s']:.1f}", megabytes(row)),
            *(f"{row['open_ms']:.1f}", f"{row['anonymous_mib']:.1f}", f"{row['file_mib']:.1f}"),
            f"{row['anonymous_before_mib'] + row['file_before_mib']:.1f}",
        ]
        for row in builds
    ]
    header = ("contestant", "configuration", "build s", "MB on disk", "open ms", "+anonymous MiB", "+file MiB")
    print_table((*header, "MiB before"), rows)
    for row in builds:
        if chosen := row.get("promised"):
            default = row["default_engine"] == row["contestant"].removeprefix("gifdex-")
            print(f"{row['contestant']}{', the default engine' if default else ''}:", end=" ")
            print(f"its build chose {chosen['setting']} and measured", end=" ")
            print(
                f"recall@10 {chosen['recall'].get('10', 0):.4f} for items, "
                f"{chosen['recall_of_sentences'].get('10', 0):.4f} for tuning queries"
            )
    print()


def megabytes(row: Row) -> str:
    return f"{row['bytes'] / 1e6:,.1f}"


def show_at_recall(at_recall: list[Row], mode: str) -> None:
    ratios = ("to_best_peer", "best_peer_build_to_ours", "to_annoy")
    rows = [
        [
            *(f"recall >= {row['at']}", row["contestant"], row["configuration"], setting_of(row)),
            *(f"{row['per_second']:,.0f}", f"{row['build_s']:.1f}"),
            *(f"{row[key]:.2f}" if key in row else "" for key in ratios),
            row.get("best_peer", ""),
        ]
        for row in at_recall
        if row["mode"] == mode
    ]
    header = (MODES[mode], "contestant", "configuration", "setting", "queries/s", "build s", "x best peer")
    print_table((*header, "its build s / ours", "x annoy", "best peer"), rows, 3)


def show_annoy(at_recall: list[Row]) -> None:
    """Compare plain annoy at each recall with our index of Annoy trees."""
    rows = []
    for row in at_recall:
        if row["mode"] == "one" and row["contestant"] in ("gifdex-annoy", "annoy"):
            speed = f"{row['per_second']:,.0f}"
            cells = (row["configuration"], setting_of(row), f"{row['recall']:.4f}", speed, megabytes(row))
            rows.append([f"recall >= {row['at']}", row["contestant"], *cells])
    header = ("", "contestant", "configuration", "search_k or num_candidates", "recall@10", "queries/s", "MB on disk")
    print_table(header, rows, 3)


def show_fresh(stores: Row) -> None:
    rows = [[store, *(f"{value:.1f}" for value in row.values())] for store, row in stores.items()]
    if rows:
        header = [key.removesuffix("_ms").replace("_", " ") for key in next(iter(stores.values()))]
        print("milliseconds in fresh processes, except for the warm open:")
        print_table(("index", *header), rows, 1)
