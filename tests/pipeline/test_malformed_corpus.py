from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

# A subprocess, so that its peak memory is the build's. The slowest file is timed separately afterwards.
SCRIPT = """
import json, sys, time
from pathlib import Path
from gifdex.encoders.features import load
from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.pipeline.build import build
from gifdex.pipeline.corpus import list_corpus
from gifdex.pipeline.encode import Source, reader
from gifdex.pipeline.scan import scan_file
from gifdex.encoders.settings import EncodeSettings
from gifdex.pipeline.settings import BuildSettings
corpus, settings = sys.argv[1], EncodeSettings()
started = time.monotonic()
decode = FrameDecoder()
summary = build(BuildSettings(corpus, Path(sys.argv[2])))
seconds = time.monotonic() - started
slowest = (0.0, "")
entries = list_corpus(corpus).entries
for entry in entries:
    started = time.monotonic()
    row = scan_file(entry, None, settings.limits)
    if "sha256" in row:
        source = Source(row["sha256"], entry.uri)
        load((source.sha256, reader(source, settings.limits.bytes)), settings, (224, 224), decode)
    slowest = max(slowest, (time.monotonic() - started, entry.uri))
print(json.dumps({**summary.to_json(), "files": len(entries), "total": seconds, "slowest": slowest}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_malformed_gif_becomes_an_item_or_a_reject_within_time_and_memory(data: Path, tmp_path: Path) -> None:
    corpus = data / "gif-suite" / "malformed"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, corpus, tmp_path / "workspace"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak RSS {peak_bytes / 1e9:.2f} GB", result)  # noqa: T201  # shown with -s, and when the test fails
    assert result["files"] == sum(path.suffix.lower() == ".gif" for path in corpus.rglob("*")) > 400
    assert result["items"] + result["rejects"] == result["files"]
    assert result["items"] > 0
    assert result["slowest"][0] < 10
    assert peak_bytes < 3e9
