"""Our GGUF file against llama.cpp's own converter on the same merged folder.

The converter is not on PyPI by itself; it lies in the llama-cpp-python source package:
`pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36`, unpack, set FINETUI_LLAMA_CPP_SDIST to the
folder. Not covered: its choice of `tokenizer.ggml.pre` (it goes by hashes of released tokenizers, so ours is handed
to it), and real weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

from engine.worker import gguf as stage
from engine.worker import merge

SDIST = os.environ.get("FINETUI_LLAMA_CPP_SDIST", "")
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
OURS = ("finetui.", "general.", "tokenizer.chat_template")
"""Metadata on purpose not as the converter writes them: names, and the template with its comment in front."""
EXPLICIT = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eot_token_id"}
"""Written by us always, by the converter only sometimes."""
IMPLICIT = {"tokenizer.ggml.add_sep_token"}
"""Written by the converter from a post-processor for pairs of texts, which a language model has no use for."""
DIFFERING = {"mistral": {"tokenizer.ggml.add_space_prefix"}}
"""The converter copies `add_prefix_space` of tokenizer_config.json. Mistral v0.3 means by it the first word of a bare
text, llama.cpp also what follows a special token: its file has two spaces behind `[INST]` where training had one."""

pytestmark = pytest.mark.skipif(
    not SDIST, reason="FINETUI_LLAMA_CPP_SDIST does not name the unpacked llama-cpp-python sources"
)

CONVERT = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion import base
pre = sys.argv[4]
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert", sys.argv[2], "--outfile", sys.argv[3], "--outtype", "bf16"]
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def by_llama_cpp(folder: Path, out: Path, pre: str) -> gguf.GGUFReader:
    """The folder converted by llama.cpp's own script, in a process with its own gguf package."""
    sources = next(Path(SDIST).rglob("convert_hf_to_gguf.py")).parent
    command = [sys.executable, "-c", CONVERT, str(sources), str(folder), str(out), pre]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return gguf.GGUFReader(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "pre", "settings"),
    [
        ("llama", "llama-bpe", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen2", {"head_dim": 32, "tie_word_embeddings": True}),
        ("mistral", "default", {"vocab_size": 608}),
        ("mistral-legacy", "default", {"vocab_size": 608}),
    ],
)
def test_same_tensors_and_metadata(
    family: str, pre: str, settings: dict[str, Any], tiny: Any, export: Any, tmp_path: Path
) -> None:
    exported = export(base=tiny(family, **settings))
    merge.run(exported.context("merge"))
    stage.run(exported.context("gguf", quants=("bf16",)))
    ours = gguf.GGUFReader(exported.run.gguf("bf16"))
    theirs = by_llama_cpp(exported.run.merged, tmp_path / "theirs.gguf", pre)
    assert {t.name: t.data.tobytes() for t in ours.tensors} == {t.name: t.data.tobytes() for t in theirs.tensors}
    mine, reference = metadata(ours), metadata(theirs)
    assert reference.keys() - mine.keys() <= IMPLICIT
    assert mine.keys() - reference.keys() <= EXPLICIT
    shared = mine.keys() & reference.keys()
    differing = {key for key in shared if mine[key] != reference[key]}
    assert differing == DIFFERING.get(family, set())


def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith((*OURS, "GGUF.")) or key in ("general.architecture", "general.file_type")
    }
