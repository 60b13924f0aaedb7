"""What the libraries may do in the worker's process: no drawing, no notices to developers, no code from a hub."""

from __future__ import annotations

import logging
import os
import sys
import warnings

LIBRARIES = r"(transformers|trl|peft|accelerate|datasets|huggingface_hub)\b"


def quiet() -> None:
    """Keep progress bars and notices out of `worker.log`, whose end is shown when a run is lost.

    Must come before the libraries are imported.
    """
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers goes by it too
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    warnings.filterwarnings("ignore", category=FutureWarning, module=LIBRARIES)
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_not_about_kernels)


def _is_not_about_kernels(record: logging.LogRecord) -> bool:
    return "kernels-community" not in record.getMessage()


def forbid_fetched_code() -> None:
    """Make the package `kernels` look as if it were not installed.

    With it, bitsandbytes downloads compiled code from the hub when it is imported on a CPU with AVX512-BF16, and
    transformers on request; neither has a switch against it that holds for both.
    """
    sys.modules["kernels"] = None  # type: ignore[assignment]  # the import system takes it for "there is none"
