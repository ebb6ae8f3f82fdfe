"""A real S3 server for tests: versitygw (Apache-2.0), which serves a folder; `make s3-server` builds it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "testkey", "testsecret"
BUCKET = "bucket"


@dataclass(frozen=True)
class S3Server:
    """A running server; `folder` holds the bucket's objects as files."""

    port: int
    folder: Path

    def url(self, path: str) -> str:
        return f"s3://{BUCKET}/{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def object(self, path: str) -> Path:
        return self.folder / BUCKET / path


def binary() -> Path | None:
    """Return versitygw from GIFDEX_TEST_VERSITYGW, from PATH, or from where `make s3-server` puts it."""
    if found := os.environ.get("GIFDEX_TEST_VERSITYGW") or shutil.which("versitygw"):
        return Path(found)
    built = Path.home() / ".cache" / "gifdex-tests" / "versitygw-v1.8.0" / "versitygw"
    return built if built.exists() else None


@contextmanager
def running(versitygw: Path, folder: Path, port: int | None = None) -> Iterator[S3Server]:
    """Serve a folder of buckets until the block ends."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    sidecar = folder.with_name(f"metadata-of-{folder.name}")
    sidecar.mkdir(exist_ok=True)
    command = [str(versitygw), "--port", f"127.0.0.1:{port}", "--region", "us-east-1", "--quiet"]
    command += ["posix", "--sidecar", str(sidecar), str(folder)]
    environment = {**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("versitygw did not start")
            time.sleep(0.05)
        yield S3Server(port, folder)
    finally:
        process.terminate()
        process.wait()
