"""What can go wrong when a model is fetched from the hub, in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from engine.errors import FinetuiError, FitError, MissingError
from engine.text import clean_line
from engine.units import format_duration
from engine.worker.faults import is_disk_full

UNTOLD_WAIT_S = 30.0
"""The pause after a 429 that does not tell how long."""


class Busy(Exception):
    """The hub answered 429, and asks for a pause of so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"429 Too Many Requests: wait {seconds:.0f} s")
        self.seconds = seconds


def seconds_to_wait(headers: Mapping[str, str]) -> float:
    """The pause that a 429 asks for: by the hub's own header `RateLimit`, or by `Retry-After` (seconds or a date)."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    told = headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        then = parsedate_to_datetime(told)
    except ValueError:
        return UNTOLD_WAIT_S
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


@contextmanager
def explained(repo: str, revision: str, kept: Callable[[], str]) -> Iterator[None]:
    """Turn the errors of huggingface_hub about a model into ones that a person can act on; others come out as they are.

    `kept` says how much of the model is on this machine, or nothing while the hub has not answered.
    """
    try:
        yield
    except FinetuiError:
        raise
    except Exception as error:
        cause = _cause(error)
        said = clean_line(f"{type(cause).__name__}: {cause}", 400)
        known = _room(cause, said) or _refused(repo, revision, cause, said) or _broken(repo, cause, said, kept())
        if known is None:
            raise
        raise known from error


def broken_off(error: BaseException) -> bool:
    """True for a connection that broke or a hub that is out of order: the next try may go well."""
    from huggingface_hub import errors

    cause = _cause(error)
    if isinstance(cause, errors.HfHubHTTPError):
        return cause.response.status_code >= 500
    return not isinstance(cause, errors.OfflineModeIsEnabled) and _is_network(cause)


def _is_network(cause: BaseException) -> bool:
    from huggingface_hub import errors

    transport = errors.HfHubHTTPError.__mro__[1]  # of whichever HTTP client the library uses
    short = "Consistency check failed" in str(cause)  # fewer bytes than the hub has told
    return short or isinstance(cause, (transport, ConnectionError, TimeoutError))


def _cause(error: BaseException) -> BaseException:
    """What huggingface_hub hides behind "not in the cache"."""
    from huggingface_hub import errors

    hiding = (errors.LocalEntryNotFoundError, errors.RevisionResolutionError)
    while isinstance(error, hiding) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _room(cause: BaseException, said: str) -> FinetuiError | None:
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    if is_disk_full(cause):
        hints: tuple[str, ...] = (
            "`hf cache ls` shows what lies in the cache, `hf cache rm` removes it.",
            "Or set HF_HOME to a folder on a larger disk. Files that arrived whole are kept.",
        )
        return FitError("The disk is full", f"{cache}: {said}", hints)
    if isinstance(cause, PermissionError):
        hints = (f"Give yourself the right to write to {cache}, or set HF_HOME to a folder of your own.",)
        return MissingError("The Hugging Face cache cannot be written", said, hints)
    return None


def _refused(repo: str, revision: str, cause: BaseException, said: str) -> FinetuiError | None:
    """The hub answered, and the answer is no."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(cause, errors.GatedRepoError):
        return _gated(repo, page, said)
    if isinstance(cause, errors.RevisionNotFoundError):
        hints = ("Check `revision` in the preset.", f"Its branches, tags and commits: {page}/tree/main")
        return MissingError(f"{repo} has no revision {clean_line(revision, 60)}", said, hints)
    if isinstance(cause, errors.RepositoryNotFoundError):
        return _unknown(repo, said)
    if isinstance(cause, errors.HfHubHTTPError):
        return _answered(repo, cause.response.status_code, said)
    if isinstance(cause, errors.HFValidationError):
        return MissingError(f"{clean_line(repo)} is no name of a model", said, ("On the hub it is OWNER/NAME.",))
    if isinstance(cause, errors.FileMetadataError):
        hints = ("If HF_ENDPOINT is set, it must lead to a hub.", "A proxy or a log-in page may stand in between.")
        return MissingError("What answers is not a hub", said, hints)
    if isinstance(cause, Busy):
        wait = format_duration(cause.seconds)
        hints = (
            f"Start again in {wait}; files that arrived whole are kept.",
            f"{_how_to_log_in()}: limits are higher.",
        )
        return MissingError(f"The hub has too many requests, and asks to wait {wait}", said, hints)
    return None


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _how_to_log_in() -> str:
    from huggingface_hub import constants

    return f"Make a token at {constants.ENDPOINT}/settings/tokens and give it to `hf auth login`, or set HF_TOKEN"


def _gated(repo: str, page: str, said: str) -> MissingError:
    if not _has_token():
        hints = (f"Accept its terms at {page}", f"{_how_to_log_in()}.", "Then start again.")
        return MissingError(f"{repo} is gated, and there is no token", said, hints)
    hints = (
        f"Accept its terms at {page} with the account that the token belongs to; some owners let you wait for it.",
        "A fine-grained token needs the right to read gated repositories.",
        "Another account: `hf auth login`, or another HF_TOKEN (it comes first).",
    )
    return MissingError(f"{repo} is gated, and your token has no access to it", said, hints)


def _unknown(repo: str, said: str) -> MissingError:
    if _has_token():
        hints = ("Check the name.", "If it is private, the token must belong to an account that may read it.")
        return MissingError(f"The hub has no model {repo} that your token may see", said, hints)
    return MissingError(f"The hub has no model {repo}", said, ("Check the name.", f"If it is private: {_log_in()}"))


def _log_in() -> str:
    text = _how_to_log_in()
    return text[0].lower() + text[1:] + "."


def _answered(repo: str, status: int, said: str) -> MissingError:
    if status == 401:
        hints = ("`hf auth login` with a new token, or set HF_TOKEN anew.", "Or unset HF_TOKEN for a public model.")
        return MissingError("The hub does not accept your token", said, hints)
    if status == 403:
        hints = ("The token may lack a right: see its settings.", f"What the model's page says: {repo}")
        return MissingError(f"The hub does not give you {repo}", said, hints)
    if status >= 500:
        hints = ("Wait and start again: files that arrived whole are kept.", "https://status.huggingface.co")
        return MissingError("The hub is out of order", said, hints)
    return MissingError(f"{repo} could not be downloaded", said, ("Start again.",))


def _broken(repo: str, cause: BaseException, said: str, kept: str) -> FinetuiError | None:
    from huggingface_hub import errors

    offline = isinstance(cause, errors.OfflineModeIsEnabled)
    if not (offline or _is_network(cause) or isinstance(cause, errors.LocalEntryNotFoundError)):
        return None
    if kept and not offline:
        hints: tuple[str, ...] = (
            f"On this machine now: {kept}. Start again: whole files are kept, one that was cut short begins anew.",
            "See whether the network is there.",
        )
        return MissingError(f"The download of {repo} broke off", said, hints)
    how = "unset HF_HUB_OFFLINE" if offline else "connect to the network"
    hints = (
        f"To download it, {how} and start again.",
        f"Or fetch it elsewhere with `hf download {repo} --local-dir FOLDER` and name the folder as the model.",
        "Or use a model that is here: `finetui presets` marks them.",
    )
    return MissingError(f"{repo} is not on this machine, and the hub cannot be asked", said, hints)
