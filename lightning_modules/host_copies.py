"""Copies between a device and the host's memory that run beside the computation."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class HostCopies(Protocol):
    """Copies are begun here, and done in the order in which they were begun, but when is not known.

    Whoever begins one keeps its source, or its result, until a mark that was set after it has been waited for.
    """

    def out(self, tensor: Tensor) -> Tensor:
        """Begin a copy to the host; what is written to the tensor later may come too late or not."""
        ...

    def back(self, host: Tensor) -> Tensor:
        """Begin a copy to the device; until it is waited for, the result holds nothing."""
        ...

    def mark(self) -> Any:
        """Where the copies begun so far end."""
        ...

    def wait(self, mark: Any) -> None:
        """What the device computes from here on begins when the copies up to the mark are done."""
        ...


class SideStream:
    """CUDA: a stream of its own, and pinned memory, without which copies would not run beside the computation.

    Both ends are allocated for the computation's stream. The side stream waits for that stream before each copy, so
    that it reads what is there and writes where nobody reads any more.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def out(self, tensor: Tensor) -> Tensor:
        """See ``HostCopies``."""
        return self._copied(tensor, torch.empty_like(tensor, device="cpu", pin_memory=True))

    def back(self, host: Tensor) -> Tensor:
        """See ``HostCopies``."""
        return self._copied(host, torch.empty_like(host, device=self.device))

    def mark(self) -> Any:
        """See ``HostCopies``."""
        return self.stream.record_event()

    def wait(self, mark: Any) -> None:
        """See ``HostCopies``."""
        torch.cuda.current_stream(self.device).wait_event(mark)

    def _copied(self, source: Tensor, target: Tensor) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            return target.copy_(source, non_blocking=True)


COPIES: dict[str, Callable[[torch.device], HostCopies]] = {"cuda": SideStream}
"""By type of device."""
