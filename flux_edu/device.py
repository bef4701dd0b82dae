"""One rule for where to compute: the device that was asked for, else cuda, else mps, else cpu."""

import torch


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, else cuda, else mps (Apple), else cpu. One that is not there is an error."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return torch.device(next(name for name, found in there.items() if found))
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"{device!r} is no device; choose one of {', '.join(there)}, or None for the fastest here"
        ) from None
    if not there.get(wanted.type, wanted.type == "meta"):
        found = ", ".join(name for name, there_is in there.items() if there_is)
        raise ValueError(
            f"device {str(device)!r} is not available on this machine; there is {found}. Pass None to have one chosen"
        )
    return wanted
