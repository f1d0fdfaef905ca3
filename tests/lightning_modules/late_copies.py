"""A host for tests on a CPU: copies are made as late as they may be, so that whoever does not wait gets nothing."""

from weakref import ref

import torch


class LateCopies:
    """Copies are made, in their order, when a mark behind them is waited for; until then results hold NaN.

    Sources are not kept alive here: one that is gone by then is the caller's fault. What went is counted in bytes.
    """

    def __init__(self, device):
        self.pending, self.done = [], 0
        self.went, self.came, self.shapes = 0, 0, []
        self._sources, self.most = [], 0

    def out(self, tensor):
        assert not tensor.requires_grad  # else the copy would own the graph that owns it
        self.went += tensor.nbytes
        self.shapes.append(tuple(tensor.shape))
        self._note(tensor)
        return self._begin(tensor)

    def back(self, host):
        self.came += host.nbytes
        result = self._begin(host)
        self._note(result)
        return result

    def mark(self):
        return self.done + len(self.pending)

    def wait(self, mark):
        while self.done < mark:
            source, target = (one() for one in self.pending.pop(0))
            self.done += 1
            if target is not None:  # autograd may have let go of it
                assert source is not None, "the source is gone before it was copied"
                target.copy_(source)

    def _begin(self, source):
        target = torch.empty_like(source)
        if target.is_floating_point():
            target.fill_(float("nan"))
        self.pending.append((ref(source), ref(target)))
        return target

    def _note(self, tensor):
        """The most bytes of moving tensors that have been on the device at one time."""
        self._sources.append(ref(tensor.untyped_storage()))
        alive = {s.data_ptr(): s.nbytes() for one in self._sources if (s := one()) is not None}
        self.most = max(self.most, sum(alive.values()))
