"""Qwen 3 (dense): GGUF architecture `qwen3`. Norms on query and key, which the name map knows; explicit head width."""

from __future__ import annotations

import gguf

from engine.worker.gguf.family import Family

FAMILY = Family(gguf.MODEL_ARCH.QWEN3, ("Qwen3ForCausalLM",), ("qwen2",))
