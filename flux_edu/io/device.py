"""One rule for where to compute: the device that was asked for, else cuda, else mps, else cpu."""

import os

import torch


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, else cuda, else mps (Apple), else cpu. One that is not there is an error."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}  # how many of each
    if device is None:
        return torch.device(next(name for name, count in there.items() if count))
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"{device!r} is no device; choose one of {', '.join(there)}, or none for the fastest here"
        ) from None
    if (named.index or 0) >= there.get(named.type, 0):
        devices = ", ".join(name + f" (0 to {n - 1})" * (n > 1) for name, n in there.items() if n)
        raise ValueError(
            f"device {str(device)!r} is not available on this machine; there is {devices}. Name none to have one chosen"
        )
    return named


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU, or of the machine; where the system does not say how many it has, a TiB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return 2**40
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for the products on a GPU, float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
