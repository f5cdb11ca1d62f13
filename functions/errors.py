"""The exceptions of tomopipe: what a caller may act on. Bad input is `InputError`; a stage that failed is `StageError`."""

from __future__ import annotations


class TomopipeError(Exception):
    """Base of every exception that tomopipe raises on purpose; its text is one message for a person."""


class InputError(TomopipeError):
    """Something that the user gave cannot be used; the message names the file or field and the remedy."""


class ScanError(InputError):
    """A raw scan cannot be used; the message names the file, the dataset, what was found and what is needed."""


class ParameterError(InputError):
    """A parameter is unknown or out of range; the message names the field, the value and the remedy."""


class VersionError(InputError):
    """Two parts of a run have different versions of tomopipe; the message names both and the command that mends it."""


class StageError(TomopipeError):
    """A stage failed while it ran; the message names the stage, the slab and the cause."""
