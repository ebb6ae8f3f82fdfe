"""What tfhub imports and when, and its errors for missing packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gifdex.encoders.images.tfhub import HubImages
from gifdex.encoders.texts.tfhub import HubTexts
from gifdex.schemas.errors import EncoderError, MissingExtraError


def test_importing_it_and_fingerprinting_a_text_folder_need_no_tensorflow(
    text_folder: Path, run: Callable[..., str]
) -> None:
    program = (
        "import sys\n"
        "from gifdex.encoders import registry\n"
        "from gifdex.encoders.images import tfhub\n"
        "from gifdex.encoders.texts import tfhub\n"
        f"print(registry.text_encoder('tfhub:{text_folder}').fingerprint)\n"
        "assert not {'tensorflow', 'tensorflow_hub', 'keras', 'tf_keras'} & set(sys.modules)\n"
    )
    assert run(program).strip() == HubTexts(str(text_folder)).fingerprint


@pytest.mark.parametrize("absent", ["tensorflow", "tensorflow_hub"])
@pytest.mark.parametrize("encoder", [HubImages, HubTexts])
def test_a_missing_package_is_an_error_with_the_install_command(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)  # makes Python's import fail
    with pytest.raises(
        MissingExtraError, match=rf"the encoder tfhub.* needs the module {absent}, .*gifdex\[pipeline\]"
    ):
        _ = encoder(str(image_folder)).dimensions


def test_missing_requirements_of_tensorflow_hub_are_named_and_only_one_warning_is_silenced(
    text_folder: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    """The test has a pkg_resources that warns as newer versions do."""
    (tmp_path / "pkg_resources.py").write_text(
        "import sys, warnings\n"
        "if 'other' in sys.argv:\n"
        "    sys.argv.remove('other')\n"
        "    warnings.warn('something else', UserWarning)\n"
        "warnings.warn('pkg_resources is deprecated as an API. See https://', DeprecationWarning)\n"
        "warnings.warn('pkg_resources is deprecated as an API. It is slated for removal', UserWarning)\n"
        "parse_version = lambda text: tuple(map(int, text.split('.')))\n"
    )
    program = (
        "import sys\n"
        "from gifdex.encoders.texts.tfhub import HubTexts\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        f"encoder = HubTexts({str(text_folder)!r})\n"
        "for absent in ('pkg_resources', None, 'tf_keras', None):\n"
        "    if absent:\n"
        "        sys.modules[absent] = None\n"
        "    try:\n"
        "        print(encoder(['a']).shape)\n"
        "    except (MissingExtraError, UserWarning) as err:\n"
        "        print(err)\n"
        "    if absent:\n"
        "        del sys.modules[absent]\n"
    )
    printed = run(program, "other", PYTHONPATH=str(tmp_path)).splitlines()
    needs = "the encoder tfhub needs the module {}, which is not installed: run pip install 'gifdex[pipeline]'"
    assert printed == [needs.format("pkg_resources"), "something else", needs.format("tf_keras"), "(1, 6)"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "raise ImportError('undefined symbol')",
            r"needs? tensorflow_text, which cannot be imported \(undefined symbol\)",
        ),
        ("", None),
    ],
)
def test_tensorflow_text_is_imported_if_installed(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str | None
) -> None:
    (tmp_path / "tensorflow_text.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)  # so that monkeypatch restores it
    del sys.modules["tensorflow_text"]
    if message is None:
        assert HubTexts(str(text_folder))(["a"]).shape == (1, 6)
        assert "tensorflow_text" in sys.modules
    else:
        with pytest.raises(EncoderError, match=message):
            HubTexts(str(text_folder))(["a"])
