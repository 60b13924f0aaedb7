"""Qwen 2 and 2.5: GGUF architecture `qwen2`. Biases on query, key and value; halves are rotated as they are."""

from __future__ import annotations

import gguf

from engine.worker.gguf.family import Family

FAMILY = Family(gguf.MODEL_ARCH.QWEN2, ("Qwen2ForCausalLM",), ("qwen2", "deepseek-r1-qwen"))
