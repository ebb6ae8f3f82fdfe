"""The tree of errors that gifdex raises on purpose.

::

    GifdexError                     catch this one to catch them all
    ├── CorpusError                 the corpus cannot be listed or read, is empty, or repeats an id
    ├── CaptionsError               a captions file for `evaluate` cannot be used
    ├── DecodeError                 the bytes of one GIF cannot become frames (ends as a reject)
    │   ├── LimitError              ... because it is larger than a limit allows
    │   ├── UnsupportedFormatError  ... because they are not an animation that gifdex can read
    │   ├── ChangedFileError        ... because they changed after the corpus was listed
    │   └── MissingDecoderError     ... because their format needs an extra
    ├── EncoderError                an encoder is unknown, or does not support the request
    │   ├── WeightsError            its weights are absent or unreadable
    │   └── UnknownWordsError       a sentence has no word that it knows
    ├── ProjectionError             a projection is unreadable, or does not fit its encoders
    ├── PipelineError               the results of a pipeline do not match its plan
    ├── BeamOptionsError            Beam does not understand the options it was given
    ├── WorkspaceError              the workspace cannot be used
    │   └── WorkspaceBusyError      another run holds it
    ├── ArtifactError               there is no usable index at a path
    │   ├── IndexNotFoundError      nothing is published or found there
    │   ├── FormatVersionError      written by a newer gifdex
    │   └── CorruptIndexError       bytes differ from what the manifest says
    ├── PublishError                a version cannot be published or rolled back to
    │   └── GateError               ... because the quality gate refuses it
    ├── ConfigError                 a configuration file cannot be used
    ├── RemoteError                 a remote store cannot be read or written
    ├── SourceError                 an outside source of candidates cannot be asked, or does not answer
    ├── ExportError                 an export cannot be written
    ├── QueryError                  a query cannot be answered: dimensions, NaN, zero, empty
    └── MissingExtraError           an optional dependency is not installed

Every message is one sentence that says what was found, what was expected, where, and what to do.
`exit_code` is what the command line exits with.
"""

from __future__ import annotations

from collections.abc import Sequence


class GifdexError(Exception):
    """Base of every error that gifdex raises on purpose."""

    exit_code = 1


class CorpusError(GifdexError):
    """The corpus cannot be listed or read, is empty, or has two items with the same id."""


class CaptionsError(GifdexError):
    """A captions file cannot be read, or none of its ids is in the index."""


class DecodeError(GifdexError):
    """The bytes of one GIF cannot be turned into frames.

    `lasting` is false if a retry may succeed, because the machine ran out of time or memory.
    """

    def __init__(self, message: str, *, lasting: bool = True) -> None:
        super().__init__(message)
        self.lasting = lasting


class LimitError(DecodeError):
    """One GIF is larger than a limit allows; the message names the limit and both values."""


class UnsupportedFormatError(DecodeError):
    """A file is not an animation in a format that gifdex reads."""


class ChangedFileError(DecodeError):
    """A file's bytes changed between two stages of a run."""


class MissingDecoderError(DecodeError):
    """A file's format needs an extra that is not installed; the message has the command that installs it."""


class EncoderError(GifdexError):
    """An encoder is unknown, or does not support the request."""


class WeightsError(EncoderError):
    """An encoder's weights are absent or unreadable."""


class UnknownWordsError(EncoderError):
    """A text encoder knows no word of some sentences; `positions` are their indexes in the batch."""

    def __init__(self, message: str, *, positions: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.positions = tuple(positions)


class ProjectionError(GifdexError):
    """A projection file is unreadable, or was made for other encoders."""


class PipelineError(GifdexError):
    """The results of a pipeline do not match its plan."""


class BeamOptionsError(GifdexError):
    """Beam does not understand the options it was given."""

    exit_code = 2


class WorkspaceError(GifdexError):
    """The workspace cannot be created or used."""


class WorkspaceBusyError(WorkspaceError):
    """Another run holds the workspace."""

    exit_code = 75


class ArtifactError(GifdexError):
    """There is no usable index at the path given."""


class IndexNotFoundError(ArtifactError):
    """The path holds neither a store with a published version nor a version."""


class FormatVersionError(ArtifactError):
    """The index was written in a newer format than this gifdex reads."""


class CorruptIndexError(ArtifactError):
    """The bytes of an index differ from what its manifest says."""


class PublishError(GifdexError):
    """A version cannot be published, or there is none to roll back to."""


class GateError(PublishError):
    """The quality gate refuses to publish a version."""

    exit_code = 3


class ConfigError(GifdexError):
    """A configuration file cannot be read, or has an invalid value."""

    exit_code = 2


class RemoteError(GifdexError):
    """A remote store cannot be reached, read or written."""


class SourceError(GifdexError):
    """An outside source of candidates cannot be asked, refuses, or answers nonsense; or a file cannot be fetched."""


class ExportError(GifdexError):
    """An export cannot be written to its destination."""


class QueryError(GifdexError):
    """A query cannot be answered: wrong dimensions, NaN, zero, or empty."""


class MissingExtraError(GifdexError):
    """An optional dependency is not installed; the message has the command that installs it."""

    def __init__(self, needed_for: str, module: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the module {module}, which is not installed: run pip install 'gifdex[{extra}]'"
        )
        self._given = (needed_for, module, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), self._given  # so that a worker process can send it
