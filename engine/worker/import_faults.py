"""What can go wrong when a data set is fetched, in words that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import DataError, FinetuiError, FitError, MissingError
from engine.paths import home
from engine.text import clean_line
from engine.worker.faults import is_disk_full

CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps a copy of each data set that it could convert, in Parquet."""


@contextmanager
def explained(name: str, *, local: bool = False) -> Iterator[None]:
    """Turn the errors of `datasets` and huggingface_hub about the data set `name` into ones that a person can act on.

    `local`: it is a folder on this machine. An error that is of no known kind comes out as it is.
    """
    try:
        yield
    except FinetuiError:
        raise
    except Exception as error:
        said = clean_line(f"{type(error).__name__}: {error}", 600)
        known = _disk(error) or (None if local else _hub(name, error, said)) or _data(name, error, said, local)
        if known is None:
            raise
        raise known from error


def unreachable(error: Exception) -> bool:
    """True if the error says that the hub cannot be asked: no network, or HF_HUB_OFFLINE."""
    from huggingface_hub import errors

    transport: type[BaseException] = errors.HfHubHTTPError.__mro__[1]  # of whichever HTTP client the library uses
    answered = isinstance(error, errors.HfHubHTTPError)
    missing = (errors.RevisionResolutionError, errors.LocalEntryNotFoundError)
    return isinstance(error, missing) or (
        not answered and isinstance(error, (transport, ConnectionError, TimeoutError))
    )


def not_here(name: str, detail: str) -> MissingError:
    """The data set is not on this machine, and the hub cannot be asked."""
    hints = (
        "Connect to the network, and unset HF_HUB_OFFLINE, then start again.",
        f"Or fetch it elsewhere: `hf download {name} --repo-type dataset --local-dir FOLDER`, and name the folder.",
    )
    return MissingError(f"{name} is not on this machine, and the hub cannot be reached", clean_line(detail, 400), hints)


def _disk(error: Exception) -> FinetuiError | None:
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        hints = (
            "FAT holds no file above 4 GiB, and `ulimit -f` shows a limit of the shell: "
            "set FINETUI_HOME and HF_HOME to a place without one.",
            "Or take a part only: --set data.max_rows=10000",
        )
        return FitError("A file would become larger than may be here", clean_line(str(error), 400), hints)
    if not is_disk_full(error):
        return None
    hints = (
        f"Free some space under {home()} and in the Hugging Face cache, then start again.",
        "Or take a part only: --set data.max_rows=10000",
    )
    return FitError("The disk is full", clean_line(str(error), 400), hints)


def _hub(name: str, error: Exception, said: str) -> FinetuiError | None:
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{name}"
    if isinstance(error, errors.GatedRepoError):
        terms = f"Accept its terms at {page}"
        return MissingError(
            f"{name} is gated", said, (terms, "then `hf auth login`, or set HF_TOKEN, and start again.")
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return MissingError(f"{name} has no such revision", said, (f"See {page}/tree/main for its branches and tags.",))
    if isinstance(error, errors.RepositoryNotFoundError):
        look = (
            "Check the name, or look for it at https://huggingface.co/datasets",
            "If it is private: `hf auth login`, or set HF_TOKEN.",
            f"If a file was meant: there is none at {name}.",
        )
        return MissingError(f"The hub has no data set {name}", said, look)
    if isinstance(error, errors.HfHubHTTPError) and not isinstance(error, errors.EntryNotFoundError):
        hints = ("401 or 403: `hf auth login`, or set HF_TOKEN.", "429 or 5xx: wait and start again.")
        return MissingError(f"The hub does not hand out {name}", said, hints)
    return _network(name, error, said)


def _network(name: str, error: Exception, said: str) -> FinetuiError | None:
    from huggingface_hub import errors

    if isinstance(error, (errors.RevisionResolutionError, errors.OfflineModeIsEnabled)):
        return not_here(name, said)
    client = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "aiohttp")
    if unreachable(error) or client or "Consistency check failed" in said:
        hints = ("Start again: files that were downloaded whole are kept.", "See whether the network is there.")
        return MissingError(f"The download of {name} broke off", said, hints)
    return None


def _data(name: str, error: Exception, said: str, local: bool) -> FinetuiError | None:
    import pyarrow as pa
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetsError

    if "Dataset scripts are no longer supported" in said:
        return _needs_code(name, said, local)
    fetch = "" if local else f" after `hf download {name} --repo-type dataset --local-dir FOLDER`"
    elsewhere = f"Name one of its files{fetch}: JSON Lines, JSON lists, CSV, TSV and Parquet are read as they are."
    if isinstance(error, (DataFilesNotFoundError, EmptyDatasetError)):
        return DataError(f"{name} has no data files that can be loaded", said, (elsewhere,))
    bad = (ValueError, TypeError, LookupError, NotImplementedError, ImportError, EOFError, OSError)
    if isinstance(error, (pa.ArrowException, DatasetsError, *bad)):
        return DataError(f"{name} cannot be read", said, (elsewhere,))
    return None


def _needs_code(name: str, said: str, local: bool) -> DataError:
    copies = (
        f"The hub converts many of these: try hf://datasets/{name}@{CONVERTED}",
        "Or look for a copy of it on the hub in Parquet or JSON Lines.",
    )
    hints = ("If data files lie beside the code, name one of them.",) if local else copies
    return DataError(f"{name} needs its own code to be read, and no code of a data set is run", said, hints)
