from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from gifdex.pipeline.tasks import pipeline_options, run_tasks
from gifdex.schemas.errors import EncoderError, GifdexError, MissingExtraError, PipelineError
from gifdex.schemas.files import commit_bytes
from tests.progress import RecordedProgress


@dataclass(frozen=True)
class Write:
    """A task that writes its own name."""

    output: Path
    items: int = 2


class Commit(beam.DoFn):
    def process(self, task: Write) -> Iterator[str]:
        commit_bytes(task.output, task.output.name.encode())
        yield task.output.name


class CommitNothing(beam.DoFn):
    def process(self, task: Write) -> Iterator[str]:
        yield task.output.name


class Fail(beam.DoFn):
    def process(self, task: Write) -> Iterator[str]:
        raise ZeroDivisionError(f"no luck with {task.output.name}\nand more lines")


class FailOnPurpose(beam.DoFn):
    def process(self, task: Write) -> Iterator[str]:
        raise EncoderError("the encoder cannot do this: choose another")


class FailForAnExtra(beam.DoFn):
    def process(self, task: Write) -> Iterator[str]:
        raise MissingExtraError("it", "nothing", "more")


def tasks(folder: Path, count: int = 3) -> list[Write]:
    return [Write(folder / f"task{number}") for number in range(count)]


def test_every_task_is_run_and_progress_ends_at_the_total(tmp_path: Path) -> None:
    progress = RecordedProgress()
    run_tasks("st", tasks(tmp_path), Commit, (), progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task0", "task1", "task2"]
    assert progress.stages[0] == ("st", 0, 6)
    assert progress.stages[-1] == ("st", 6, 6)
    assert [done for _, done, _ in progress.stages] == sorted(done for _, done, _ in progress.stages)


def test_no_tasks_start_no_pipeline(tmp_path: Path) -> None:
    progress = RecordedProgress()
    run_tasks("st", [], Fail, ("--runner=NoSuchRunner",), progress)
    assert progress.stages == [("st", 0, 0)]


def test_tasks_without_results_are_an_error_even_when_the_runner_reports_success(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"the st pipeline ended, but 3 of 3 tasks left no result .*task0"):
        run_tasks("st", tasks(tmp_path), CommitNothing, ())


def test_a_failing_task_is_a_one_line_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match="the st pipeline failed with ZeroDivisionError: no luck with task"
    ) as caught:
        run_tasks("st", tasks(tmp_path), Fail, ())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_our_own_errors_come_through_word_for_word(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"^the encoder cannot do this: choose another$"):
        run_tasks("st", tasks(tmp_path), FailOnPurpose, ())


def test_our_own_errors_that_beam_cannot_reconstruct_come_through_too(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"^it needs the module nothing, .*'gifdex\[more\]'$"):
        run_tasks("st", tasks(tmp_path), FailForAnExtra, ())


def test_the_reason_from_another_process_is_the_error_line_of_its_traceback(tmp_path: Path) -> None:
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    with pytest.raises(PipelineError, match="EncoderError: the encoder cannot do this: choose another; what") as caught:
        run_tasks("st", tasks(tmp_path), FailOnPurpose, options)
    assert "\n" not in str(caught.value)


def test_an_unknown_runner_is_a_pipeline_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="Unexpected pipeline runner: NoSuchRunner"):
        run_tasks("st", tasks(tmp_path), Commit, ("--runner=NoSuchRunner",))


@pytest.mark.parametrize(
    ("arguments", "runner"),
    [
        ((), "FnApiRunner"),
        (("--direct_num_workers=3",), "FnApiRunner"),
        (("--runner=FlinkRunner",), "FlinkRunner"),
        (("--runner", "FlinkRunner", "--direct_num_workers", "3"), "FlinkRunner"),
    ],
)
def test_beam_options_are_passed_on_and_the_local_runner_is_the_default(
    arguments: tuple[str, ...], runner: str
) -> None:
    options = pipeline_options(arguments)
    assert options.view_as(StandardOptions).runner == runner
    workers = options.view_as(DirectOptions).direct_num_workers
    assert workers == (3 if any("workers" in argument for argument in arguments) else 1)


@pytest.mark.parametrize(
    ("arguments", "stray"),
    [
        (("FlinkRunner",), "FlinkRunner"),
        (("--runner=FnApiRunner", "4"), "4"),
        (("--runner", "FnApiRunner", "more"), "more"),
    ],
)
def test_a_stray_argument_is_named(arguments: tuple[str, ...], stray: str) -> None:
    with pytest.raises(GifdexError, match=f"Beam does not know {stray!r}"):
        pipeline_options(arguments)
