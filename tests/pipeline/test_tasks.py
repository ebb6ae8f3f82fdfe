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
    told = RecordedProgress()
    run_tasks("st", tasks(tmp_path), Commit, (), told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task0", "task1", "task2"]
    assert told.stages[0] == ("st", 0, 6)
    assert told.stages[-1] == ("st", 6, 6)
    assert [done for _, done, _ in told.stages] == sorted(done for _, done, _ in told.stages)


def test_nothing_to_do_starts_no_pipeline(tmp_path: Path) -> None:
    told = RecordedProgress()
    run_tasks("st", [], Fail, ("--runner=NoSuchRunner",), told)
    assert told.stages == [("st", 0, 0)]


def test_tasks_that_left_nothing_are_an_error_though_the_runner_says_done(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"the st pipeline ended, but 3 of 3 tasks left no result .*task0"):
        run_tasks("st", tasks(tmp_path), CommitNothing, ())


def test_a_failing_task_is_an_error_of_one_line_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match="the st pipeline failed with ZeroDivisionError: no luck with task"
    ) as caught:
        run_tasks("st", tasks(tmp_path), Fail, ())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_of_ours_comes_through_as_itself_word_for_word(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"^the encoder cannot do this: choose another$"):
        run_tasks("st", tasks(tmp_path), FailOnPurpose, ())


def test_an_error_of_ours_that_beam_cannot_make_again_comes_through_too(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"^it needs the module nothing, .*'gifdex\[more\]'$"):
        run_tasks("st", tasks(tmp_path), FailForAnExtra, ())


def test_the_reason_of_another_process_is_the_last_line_of_its_traceback_that_is_one(tmp_path: Path) -> None:
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
def test_beam_options_pass_through_and_the_local_runner_is_named(arguments: tuple[str, ...], runner: str) -> None:
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
