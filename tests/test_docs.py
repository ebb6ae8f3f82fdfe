"""The documentation shows every command and only real ones, its links work, and its lines are short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import gifdex as package
from gifdex.jobs.cli import gifdex
from gifdex.schemas import errors

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for folder in (ROOT, ROOT / "docs", ROOT / "examples") for path in folder.glob("*.md") if path.is_file()
)
MAX_LINE = 100
CONTEXT = click.Context(gifdex)
COMMANDS = gifdex.list_commands(CONTEXT)
FENCE = re.compile(r"^\s*(```|~~~)")
# An inline link or image; these pages give links no titles.
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def lines(page: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield each line's number, the line, and whether it is in a block of code."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        yield number, line, inside or bool(fence)
        inside = inside != bool(fence)


def code(page: Path) -> Iterator[str]:
    """Yield the code on a page: lines of blocks, joined where they end in `\\`, and code spans."""
    pending = ""
    text = []
    for _, line, inside in lines(page):
        if inside:
            pending += line
            if not line.endswith("\\"):
                yield pending
                pending = ""
            else:
                pending = pending[:-1]
        else:
            text.append(line)
    yield from re.findall(r"`([^`]+)`", "\n".join(text))


def shown_commands(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each command on a page, and its arguments up to the next command, a comment or Beam's options."""
    for shown in code(page):
        if shown.lstrip().startswith(("├", "│", "└")):  # a tree of folders
            continue
        for part in re.split(r"(?<![\w./-])gifdex(?=\s+[a-z])", " ".join(shown.split()))[1:]:
            command, _, rest = part.strip().partition(" ")
            yield command.rstrip(".,;:)'\"`"), re.split(r"(?:^| )(?:#|\||&&|;|--(?: |$))", rest)[0]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for _, line, inside in lines(page):
        if not inside and (heading := re.match(r"#+ (.*)", line)):
            text = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower())
            slug = text.replace(" ", "-")
            found.add(
                next(f"{slug}-{n}" if n else slug for n in range(99) if (f"{slug}-{n}" if n else slug) not in found)
            )
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert any(command == shown for page in PAGES for shown, _ in shown_commands(page)), (
        f"no page shows gifdex {command}"
    )


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_every_command_and_option_that_a_page_shows_exists(page: Path) -> None:
    for shown, rest in shown_commands(page):
        command = gifdex.get_command(CONTEXT, shown)
        assert command is not None, f"{name(page)} shows gifdex {shown}, which does not exist"
        if isinstance(command, click.Group):
            shown, _, rest = rest.strip().partition(" ")
            command = command.get_command(CONTEXT, shown)
            assert command is not None, f"{name(page)} shows the subcommand {shown}, which does not exist"
        options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*[a-z]", rest):
            assert option in options, f"{name(page)} shows gifdex {shown} {option}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_works(page: Path) -> None:
    text = "\n".join("" if inside else line for _, line, inside in lines(page))
    for link in LINK.findall(re.sub(r"`[^`]*`", "", text)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        address, _, anchor = link.partition("#")
        target = (page.parent / address).resolve() if address else page
        assert target.exists(), f"{name(page)} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT), f"{name(page)} links to {link}, outside the repository"
        if anchor:
            assert anchor in anchors(target), f"{name(page)} links to {link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short_except_in_tables_and_code(page: Path) -> None:
    long = [
        f"{name(page)}:{number} has {len(line)} characters"
        for number, line, inside in lines(page)
        if len(line) > MAX_LINE and not inside and not line.lstrip().startswith("|")
    ]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_holds_a_placeholder(page: Path) -> None:
    assert not re.search(r"@@|TODO|TBD|FIXME", page.read_text())


def test_every_page_is_in_the_index_of_the_docs() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def public_names() -> Iterator[str]:
    """Yield the names that the package exports, and the members of its classes."""
    yield from package.__all__
    for kind in (package.Index, package.Hit, package.ServedIndex, package.ServingStatus):
        members = {**vars(kind), **getattr(kind, "__annotations__", {})}
        yield from (name for name in members if not name.startswith("_"))


@pytest.mark.parametrize("name", sorted(set(public_names())))
def test_every_public_name_is_in_the_api_page(name: str) -> None:
    shown = "\n".join(code(ROOT / "docs" / "api.md"))
    assert re.search(rf"(?<!\w){name}(?!\w)", shown), f"docs/api.md does not show {name}"


def test_the_api_page_has_the_tree_of_errors() -> None:
    tree = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\nEvery")[0]
    page = (ROOT / "docs" / "api.md").read_text()
    assert "\n".join(line.removeprefix("    ") for line in tree.splitlines()) in page
