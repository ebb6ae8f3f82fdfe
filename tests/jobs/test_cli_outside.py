"""`gifdex search --outside` on real GIFs: what is not in the index is found at a service, and stays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gifdex.jobs.demo_corpus import make_corpus
from tests.commands import Finished, run
from tests.index.sources.http_service import KEY, Service, serving

HELD_OUT = ("cat", "rocket", "motorcycle")
# The best scores of the held-out photographs are above 0.2, those of the others below.
MIN_SCORE = 0.2
SENTENCES = {
    "cat": "a cat looking at the camera",
    "rocket": "a rocket launching into the sky",
    "motorcycle": "a motorcycle in a workshop",
}
SOURCE = """
name = "local"
url = "{url}/v1/gifs/search?api_key=$LOCAL_KEY&q={{query}}&limit={{count}}&offset={{offset}}"
private_hosts = ["127.0.0.1"]
seconds = {seconds}

[keys]
items = "data[*]"
id = "id"
url = "images.fixed_height.url"
page_url = "url"
title = "title"

[headers]
X-Trace = "gifdex"
"""


class Site:
    """An index of photographs without three of them, and a service that has all."""

    def __init__(self, root: Path, service: Service, names: list[str]) -> None:
        self.root, self.service, self.names = root, service, names

    def source(self, seconds: float = 20) -> Path:
        path = self.root / "source.toml"
        path.write_text(SOURCE.format(url=self.service.url(), seconds=seconds))
        return path

    def search(self, *arguments: object, source: object = None, **env: str) -> Finished:
        environment = {"GIFDEX_CACHE": str(self.root / "cache"), "LOCAL_KEY": KEY, **env}
        return run(
            "search", self.root / "ws" / "index", *arguments, "--outside", source or self.source(), env=environment
        )

    def name(self, hit: dict[str, str]) -> str:
        """The id in the corpus of a hit from outside."""
        return self.names[int(hit["id"].removeprefix("local/id"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("outside")
    everything = make_corpus(root / "everything")
    inside = [path.stem for path in everything if path.stem.partition("-")[0] not in HELD_OUT]
    make_corpus(root / "corpus", inside)
    done = run("build", root / "corpus", "--workspace", root / "ws")
    assert done.returncode == 0, done.stderr
    with serving() as service:
        service.gifs = [path.read_bytes() for path in everything]
        yield Site(root, service, [path.stem for path in everything])


def rows(done: Finished) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_query_that_the_index_has_nothing_for_finds_its_gif_outside_and_the_next_build_holds_it(site: Site) -> None:
    inbox = site.root / "inbox"
    for name, sentence in SENTENCES.items():
        assert rows(run("search", site.root / "ws" / "index", sentence, "--min-score", MIN_SCORE, "--json")) == []
        hits = rows(site.search(sentence, "--min-score", MIN_SCORE, "--inbox", inbox, "--json", "-k", 2))
        assert {site.name(hit).partition("-")[0] for hit in hits} == {name}
        assert all(hit["source"] == "local" for hit in hits)
    (build,) = rows(run("build", site.root / "corpus", "--workspace", site.root / "ws", "--inbox", inbox, "--json"))
    assert (build["encoded"], build["tried"], build["items"]) == (0, 0, len(site.names))
    for name, sentence in SENTENCES.items():
        (hit,) = rows(run("search", site.root / "ws" / "index", sentence, "-k", 1, "--json"))
        assert site.name(hit).partition("-")[0] == name
    run("build", site.root / "corpus", "--workspace", site.root / "ws")  # for the other tests, without the inbox


def test_a_table_says_where_each_hit_came_from(site: Site) -> None:
    done = site.search("a cat", "--outside-when", "always", "-k", 40)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["rank", "score", "id", "source", "uri"]
    sources = [line.split()[3] for line in done.stdout.splitlines()[1:]]
    assert (sources.count("index"), sources.count("local")) == (22, 6)


def test_a_hit_of_the_index_that_is_good_enough_needs_no_service(site: Site) -> None:
    asked = sum(site.service.asked.values())
    (hit,) = rows(site.search("a cup of coffee on a table", "--min-score", MIN_SCORE, "-k", 1, "--json"))
    assert hit["id"].partition("-")[0] == "coffee"
    assert "source" not in hit
    assert sum(site.service.asked.values()) == asked


def test_a_dead_service_costs_its_seconds_and_one_sentence(site: Site) -> None:
    own = rows(run("search", site.root / "ws" / "index", "a cat on a sofa", "--json"))
    site.service.answers["/v1/gifs/search"] = {"data": "none"}
    try:
        done = site.search("a cat on a sofa", "--outside-when", "always", "--json")
        assert rows(done) == own
        assert done.stderr == (
            "gifdex: the outside source local was not used: the answer of local has no list at 'data[*]'; check the "
            "expression\n"
        )
    finally:
        del site.service.answers["/v1/gifs/search"]
    started = time.monotonic()
    silent = site.source(0.5)
    silent.write_text(silent.read_text().replace("/v1/gifs/search", "/silent/x"))
    done = site.search("a cat on a sofa", "--outside-when", "always", "--json", source=silent)
    assert time.monotonic() - started < 10  # the rest is the start of the command
    assert rows(done) == own
    assert len(done.stderr.splitlines()) == 1


def test_answers_are_kept_by_query(site: Site) -> None:
    for _ in range(2):
        site.search("the same query", "--outside-when", "always")
    asked = [query for query in site.service.queries if query.get("q") == ["the same query"]]
    assert len(asked) == 1


def test_giphy_without_a_key_is_one_sentence_and_the_indexes_own_answer(site: Site) -> None:
    done = site.search("a cat", "--outside-when", "always", "-k", 1, "--json", source="giphy", GIPHY_API_KEY="")
    assert len(rows(done)) == 1
    assert done.stderr == (
        "gifdex: the outside source giphy was not used: GIPHY needs an API key, and none is set; put it into the "
        "environment variable GIPHY_API_KEY\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no outside source"),
        ("name = ", "expected TOML: fix it"),
        ('name = "x"\nurl = "http://x/{query}"', "has no keys, which an outside source needs; add it"),
        ('name = "x"\nurl = 3\n[keys]\nitems = "a"\nurl = "b"', "url of {} is 3; expected a text"),
        ('nam = "x"', "has nam, which no outside source has: did you mean name?"),
        ('name = "x"\nurl = "{query}"\n[keys]\nitems = "a"', "[keys] of {} has no url, which an outside source needs"),
        ('name = "x"\nurl = "{query}"\n[key]\nitems = "a"', "has the table [key], which no outside source has"),
        (
            'name = "x"\nurl = "http://x/{query}?k=$NO_SUCH"\n[keys]\nitems = "a"\nurl = "b"',
            "needs the environment variable NO_SUCH, which is not set: set it",
        ),
        ('name = "x"\nurl = "http://x/"\n[keys]\nitems = "a"\nurl = "b"', "the URL template of x has the fields []"),
        (
            'name = "x"\nurl = "http://x/{query}"\n[keys]\nitems = "a"\nurl = "b"\n[budget]\nconnections = 0',
            "has a limit that cannot be used",
        ),
    ],
)
def test_a_file_that_describes_no_source_gives_one_sentence(site: Site, text: str | None, message: str) -> None:
    path = site.root / ("none.toml" if text is None else "bad.toml")
    if text is not None:
        path.write_text(text)
    done = site.search("a cat", "--outside-when", "always", source=path)
    assert done.returncode in (1, 2)
    assert message.replace("{}", str(path)) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_outside_source_needs_a_minimum_and_an_inbox_needs_a_source(site: Site) -> None:
    done = site.search("a cat")
    assert done.returncode == 1
    assert "or min_score, or ask always (when='always', --outside-when always)" in done.stderr
    done = run("search", site.root / "ws" / "index", "a cat", "--inbox", site.root)
    assert done.returncode == 2
    assert "--inbox keeps what an outside source gave" in done.stderr
