"""The scheduling examples work: their commands, units and manifests are checked with the tools that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from PIL import Image

from gifdex.jobs import config
from gifdex.jobs.nightly import command
from gifdex.schemas.errors import ConfigError, GateError, WorkspaceBusyError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
INSTALLED = "/opt/gifdex/bin/gifdex"


@pytest.fixture
def gifdex(tmp_path: Path) -> Path:
    """A `gifdex` program, like the installed one."""
    path = tmp_path / "bin" / "gifdex"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m gifdex "$@"\n')
    path.chmod(0o755)
    return path


def localized(text: str, gifdex: Path, tmp_path: Path) -> str:
    """Return an example with the paths of this machine."""
    for there, here in (
        (INSTALLED, gifdex),
        ("/etc/gifdex/gifdex.toml", tmp_path / "gifdex.toml"),
        ("/var/log/gifdex", tmp_path),
        ("/var/lib/node_exporter/textfile", tmp_path),
    ):
        text = text.replace(there, str(here))
    return text


def test_the_cron_job_runs_quietly_and_prints_what_failed(tmp_path: Path, gifdex: Path) -> None:
    lines = localized((EXAMPLES / "cron" / "gifdex").read_text(), gifdex, tmp_path).splitlines()
    given = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+=", line))
    (line,) = [line for line in lines if line and line[0].isdigit()]
    fields = line.split(None, 6)
    assert fields[5] == "gifdex"  # the user, as in /etc/cron.d
    run = {"args": [given["SHELL"], "-c", fields[6]], "env": {**os.environ, **given}, "text": True}
    (tmp_path / "gifdex.toml").write_text('corpus = "gifs/"\nworkspace = "ws"\n')
    failed = subprocess.run(**run, capture_output=True, check=False)  # type: ignore[call-overload]
    assert failed.returncode == 1
    assert f"the corpus {tmp_path}/gifs/ does not exist" in failed.stdout
    (tmp_path / "gifs").mkdir()
    Image.effect_noise((32, 24), 50).save(tmp_path / "gifs" / "a.gif")
    good = subprocess.run(**run, capture_output=True, check=False)  # type: ignore[call-overload]
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    assert "gifdex_items 1.0" in (tmp_path / "gifdex.prom").read_text()
    assert '"event": "published"' in (tmp_path / "nightly.jsonl").read_text()


def test_systemd_accepts_the_units(tmp_path: Path, gifdex: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (EXAMPLES / "systemd").iterdir():
        (tmp_path / path.name).write_text(localized(path.read_text(), gifdex, tmp_path))
    (tmp_path / "notify-failure@.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    units = [tmp_path / "gifdex-nightly.service", tmp_path / "gifdex-nightly.timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = units[0].read_text()
    codes = re.search(r"RestartPreventExitStatus=(.*)", text)
    assert codes is not None
    assert {ConfigError.exit_code, GateError.exit_code} <= set(map(int, codes[1].split()))


def test_the_kubernetes_manifest_runs_existing_commands_and_options(tmp_path: Path) -> None:
    settings, claim, job = yaml.safe_load_all((EXAMPLES / "kubernetes" / "cronjob.yaml").read_text())
    path = tmp_path / "gifdex.toml"
    path.write_text(settings["data"]["gifdex.toml"])
    found = config.load(path, command, click.Context(command))
    assert found["workspace"] == Path("/var/lib/gifdex/ws")
    assert found["keep"] == 7
    spec = job["spec"]["jobTemplate"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["gifdex", "nightly", "/etc/gifdex/gifdex.toml"]
    rule = spec["podFailurePolicy"]["rules"][0]
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [ConfigError.exit_code, GateError.exit_code, WorkspaceBusyError.exit_code],
    }
    (work,) = [volume for volume in spec["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    assert work["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def test_airflow_imports_the_dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("airflow", reason="Airflow is not installed: pip install apache-airflow")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('dag', {str(EXAMPLES / 'airflow' / 'gifdex_nightly.py')!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(module.dag.dag_id, module.dag.max_active_runs, [task.task_id for task in module.dag.tasks])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["gifdex_nightly 1 ['nightly']"], done.stderr
