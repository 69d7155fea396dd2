"""The device a network runs on: whether it can be used, and whether a process still can after an error."""

from __future__ import annotations


def why_unusable(device: str) -> str:
    """Compute something small on `device`, torch's name for it ("cpu", "cuda:0"); say why not, or nothing if it can.

    It may be no name of a device, there may be no such GPU, its driver may be too old, or it may be of an
    architecture that this PyTorch is not built for.
    """
    import torch

    try:
        place = torch.device(device)
    except RuntimeError:
        return f"'{device}' is no name of a device, such as cpu or cuda:0"
    try:
        float((torch.ones(8, device=place) * 2).sum())
    except Exception as error:  # of many kinds: RuntimeError and its own, AssertionError, NotImplementedError
        return unusable(device, error)
    return ""


def unusable(device: str, error: BaseException) -> str:
    """Say in one line that a device cannot be used, with the GPU's architecture and those that PyTorch is built for."""
    import torch

    said = f"{device}{_architecture(device)} cannot be used: {one_line(error)}"
    if isinstance(error, torch.OutOfMemoryError):
        return said
    built = " ".join(torch.cuda.get_arch_list())
    kinds = f"for {built} and CUDA {torch.version.cuda}" if built else "without CUDA"
    return f"{said} (PyTorch {torch.__version__}, built {kinds})"


def _architecture(device: str) -> str:
    """The name of a GPU and its architecture, such as ' (Tesla V100, sm_70)'; empty where CUDA does not say."""
    import torch

    try:
        if torch.device(device).type != "cuda":
            return ""
        found = torch.cuda.get_device_properties(device)
    except Exception:  # whatever is wrong is being told already
        return ""
    return f" ({found.name}, sm_{found.major}{found.minor})"


def lost_device(error: BaseException, device: str) -> BaseException | None:
    """Return what shows that this process can no longer use its device, or None where an error was of another kind.

    An illegal access, an ECC error or a failed launch breaks CUDA for the process: every later call fails
    with the same error. cuDNN and cuBLAS tell of it as a plain RuntimeError, so the GPU is asked as well. Memory that
    is full counts too, though it may pass: what another process took is no fault of a frame.
    """
    import torch

    if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
        return error
    if device.startswith("cuda"):
        try:
            torch.cuda.synchronize(device)
        except Exception as found:
            return found
    return None


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line that it says: CUDA adds advice for those who write kernels."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}"[:160] if lines else type(error).__name__
