"""Which number format a processor computes fastest in."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]


def has_fast_bf16() -> bool:
    """Tell whether this processor computes in bfloat16 by itself (AVX512-BF16 or AMX)."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def use_bf16(precision: Precision, device: str) -> bool:
    """Decide on bfloat16 autocast: as asked, or with `auto` where `device` ("cpu", "cuda:0") has it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and has_fast_bf16()
