"""What the rest of gifdex does not pay for."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_lookup_imports_no_http_client() -> None:
    code = "import sys, gifdex, gifdex.index.lookup, gifdex.index.sources.base, gifdex.index.sources.results_cache\n"
    assert run(f"{code}print([m for m in ('httpx', 'httpcore', 'tenacity', 'jmespath') if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize(
    ("module", "missing"),
    [("giphy", "httpx"), ("downloads", "httpcore"), ("giphy", "tenacity"), ("json_http", "jmespath")],
)
def test_a_missing_extra_is_one_error(module: str, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        f"try:\n    import gifdex.index.sources.{module}\nexcept MissingExtraError as err:\n    print(err)"
    )
    assert run(code) == (
        f"an outside source needs the module {missing}, which is not installed: run pip install 'gifdex[hybrid]'\n"
    )
