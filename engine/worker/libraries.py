"""`python -P -m engine.worker.libraries`: can torch, bitsandbytes and llama.cpp compute here, and on the GPU?

For the doctor. Each library is asked by itself and answers with one JSON line, at once, so that one that does not
load, or takes the process with it, does not hide the others. What is claimed is tried: a product of matrices on the
device, and numbers packed to NF4 and back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

NF4_ERROR = 0.1
"""Mean absolute error that NF4 may make of standard normal numbers: it makes 0.073 (bitsandbytes 0.50, measured)."""


def ask_torch() -> dict[str, Any]:
    """What torch was built for, what it sees, and whether it computes there."""
    import torch

    told = {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "architectures": torch.cuda.get_arch_list(),
        "available": torch.cuda.is_available(),
        "devices": [
            {"name": torch.cuda.get_device_name(at), "capability": list(torch.cuda.get_device_capability(at))}
            for at in range(torch.cuda.device_count())
        ],
    }
    return {**told, "computes": _tried(lambda: _require_sum(torch))}


def _require_sum(torch: Any) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ones = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    found = float((ones @ ones).sum())
    if found != 64**3:
        raise ArithmeticError(f"a product of matrices of ones sums up to {found} instead of {64**3}")


def ask_bitsandbytes() -> dict[str, Any]:
    """Whether its native library is that for CUDA, and whether NF4 works on the device."""
    import torch
    from bitsandbytes import cextension

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        "cuda": bool(cextension.lib.compiled_with_cuda),
        "computes": _tried(lambda: _require_nf4(torch, device)),
    }


def _require_nf4(torch: Any, device: str) -> None:
    from bitsandbytes import functional

    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 64, generator=generator).to(device=device, dtype=torch.float32)
    packed, state = functional.quantize_4bit(weights, quant_type="nf4")
    error = float((functional.dequantize_4bit(packed, state) - weights).abs().mean())
    if not error <= NF4_ERROR:
        raise ArithmeticError(f"NF4 changes numbers by {error:.3f} on average")


def ask_llama() -> dict[str, Any]:
    """Whether llama.cpp was built for a GPU and finds one."""
    import llama_cpp

    return {"gpu": bool(llama_cpp.llama_supports_gpu_offload())}


def _tried(act: Callable[[], None]) -> str:
    """Empty if it works, else what went wrong."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever a driver says is the answer
        return f"{type(error).__name__}: {error}"
    return ""


QUESTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": ask_torch,
    "bitsandbytes": ask_bitsandbytes,
    "llama": ask_llama,
}


def main() -> None:
    """Ask each library; what has begun is told before, what was found after."""
    for name, ask in QUESTIONS.items():
        print(json.dumps({"asking": name}), flush=True)
        try:
            found = ask()
        except BaseException as error:  # noqa: BLE001 - a library may even call exit
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, "told": found}), flush=True)


if __name__ == "__main__":
    main()
    sys.exit(0)
