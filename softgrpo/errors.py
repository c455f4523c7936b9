"""One error type per boundary. Every message says what was received, the rule, the remedy, and a stable code.

A new error takes the next number of its class, which tests/documents/test_error_codes.py names; `python -m tests.documents.errors`
then writes its row into docs/reference/errors.md.
"""

from __future__ import annotations

import difflib
import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from softgrpo.common.redaction import without_password
from softgrpo.common.text import one_line, shortened, visible


class SoftGRPOError(Exception):
    """Base of all errors meant for people.

    Args:
        received: What was received, with the value.
        rule: The rule that it breaks.
        remedy: What to do about it.
        code: Stable name of this error, such as `DATA-012`: the class and a number that no other error gets, not even after this
            one is gone. docs/reference/errors.md lists all codes.
    """

    def __init__(self, received: str, rule: str, remedy: str, *, code: str) -> None:
        received, rule, remedy = map(without_password, (received, rule, remedy))
        self.received = received.rstrip(".")
        self.rule = rule.rstrip(".")
        self.remedy = remedy.rstrip(".")
        self.code = code
        super().__init__(received, rule, remedy)

    def __str__(self) -> str:
        received = shortened(visible(self.received))
        rule, remedy = (shortened(visible(_sentence(part), kept="\n")) for part in (self.rule, self.remedy))
        return f"{received}. {rule}. {remedy}. [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns what pickle makes the same error of: `args` alone lack the code."""
        return partial(type(self), code=self.code), self.args, self.__dict__


def _sentence(text: str) -> str:
    """Returns a text with a capital at its start, unless it starts with a name such as `data.k_core`."""
    first, _, rest = text.partition(" ")
    return text[:1].upper() + text[1:] if first.isalpha() and not rest.startswith("=") else text


class ConfigError(SoftGRPOError):
    """A setting, flag, preset or combination of them is wrong."""


class DataError(SoftGRPOError):
    """An input file is missing, malformed or too small."""


class LeakageError(SoftGRPOError):
    """A later interaction is visible where only earlier ones may be."""


class RecallerError(SoftGRPOError):
    """A recaller is unknown, cannot be trained, or diverged."""


class CandidateError(SoftGRPOError):
    """Candidate lists are incomplete, of another shape, or hold forbidden items."""


class PolicyError(SoftGRPOError):
    """A language model cannot be found, loaded or adapted."""


class TrainingError(SoftGRPOError):
    """Training met a value it must not go on with (NaN, a reward of a wrong shape)."""


class StoreError(SoftGRPOError):
    """A stored artifact is missing, damaged, or cannot be written."""


class ProcessError(SoftGRPOError):
    """The process that a stage ran in was ended from outside."""


class TimeLimitError(SoftGRPOError):
    """A stage took longer than it may."""


class MemoryLimitError(SoftGRPOError):
    """The memory of the machine, of the GPU or of a limit was too small."""


NO_SPACE = "no space is left on the disk"
LEAST_TEMPORARY_BYTES = 1_000_000
_FULL_DISK = (
    "no space left",
    NO_SPACE,
    "disk quota exceeded",
    "database or disk is full",
    "pytorchstreamwriter failed",
)
"""What the system, this package, SQLite and torch say of it; torch does not say why it could not write."""


_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "unable to allocate",
    "std::bad_alloc",
    "can't start new thread",
    "failed to map segment",
)
"""What torch, CUDA, numpy, Arrow, SQLite, C++ and the system say of it."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Gives an error, and those that it arose from or during whose handling it arose."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_full_disk(error: BaseException | None) -> bool:
    """Tells whether an error, or one during whose handling it arose, says that no space is left."""
    return any(
        (isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT))
        or any(words in str(each).lower() for words in _FULL_DISK)
        for each in chain(error)
    )


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """Returns what says that no memory is left: an error, or one during whose handling it arose; None where none says so."""
    return next((each for each in chain(error) if _says_no_memory(each)), None)


def _says_no_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    names_memory = isinstance(error, RuntimeError | ImportError) and any(
        words in str(error).lower() for words in _NO_MEMORY
    )
    return names_memory or isinstance(error, MemoryError)


def no_space() -> StoreError:
    """Returns the error of a full disk; where temporary files have no space, it names their folder."""
    temporary = (
        tempfile.tempdir
    )  # None unless a library has asked for it; asking now may fail, since that writes a file
    if temporary is not None and shutil.disk_usage(temporary).free < LEAST_TEMPORARY_BYTES:
        return StoreError(
            f"{NO_SPACE} of temporary files, '{temporary}'",
            "Libraries write there what they upload",
            "Make room there, or name another folder with TMPDIR, and run the same command again; finished stages are reused",
            code="STORE-020",
        )
    return StoreError(
        NO_SPACE,
        "A stage counts only when all its files are written",
        "Make room, or choose another --output, and run the same command again; finished stages are reused",
        code="STORE-021",
    )


def out_of_memory(error: BaseException, what: str = "") -> MemoryLimitError:
    """Returns the error of memory that ran out.

    Args:
        error: What a library raised, see `lack_of_memory`.
        what: Name of what needed the memory, such as a stage.
    """
    place = f"{what}: " if what else ""
    return MemoryLimitError(
        f"{place}no memory is left ({type(error).__name__}: {one_line(str(error)) or 'without a word'})",
        "What is at work must fit into the memory of the machine or of the GPU, and into the limits of the shell (ulimit -v)",
        "Make it smaller: in training halve train.per_device_train_batch_size and double train.gradient_accumulation_steps, of a"
        " recaller lower sizes in recall.settings; or let fewer stages run at once (--parallel 1), or raise the limit."
        " docs/troubleshooting.md has more; the same command goes on from what is stored",
        code="MEMORY-001",
    )


@contextmanager
def lack_of_memory_is_readable(what: str) -> Iterator[None]:
    """Turns whatever a lack of memory makes a library raise into one error for people.

    Args:
        what: Name of what needs the memory, such as a stage.

    Raises:
        MemoryLimitError: No memory is left.
    """
    try:
        yield
    except Exception as error:  # broad: each library has its own; all others go on as they are
        cause = lack_of_memory(error)
        if cause is not None and not isinstance(error, MemoryLimitError):
            raise out_of_memory(cause, what) from error
        raise


@contextmanager
def full_disk_is_readable() -> Iterator[None]:
    """Turns whatever a full disk makes a library raise into one error for people.

    Raises:
        StoreError: No space is left.
    """
    try:
        yield
    except Exception as error:  # broad: each library has its own; all others go on as they are
        if is_full_disk(error):
            raise no_space() from error
        raise


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the sentence that helps with a misspelt name: the nearest known one, and all of them if they are few."""
    options = sorted(known)
    if not options:
        return "None is known here"
    by_lower = {option.lower(): option for option in options}
    match = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    hint = f"Did you mean '{by_lower[match[0]]}'? " if match else ""
    return hint + (f"Known: {', '.join(options)}" if len(options) <= 20 else f"{len(options)} names are known")
