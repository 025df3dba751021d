"""A stand-in for CUDA's streams on a CPU: all is done at once, but nothing counts as done before it was waited for.

Every stream, and the host, has a clock, and knows how far it has waited for the others. Each use of memory must come
after the last write of it, each write after all uses, by what was waited for and not by chance; else RaceError.
Memory that is freed is its stream's again, so whatever another stream still does with it is a race as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlmerge_cli.checkpoint.writer import Output
from vlmerge_cli.engine import torcharrays

HOST = "host"
Clock = dict[str, int]


class RaceError(AssertionError):
    """Something was used before what it needs had ended."""


@dataclass
class Memory:
    """Who used a storage when: the last write, and the last use of each actor since."""

    storage: StorageWeakRef
    size: int
    home: str
    written: tuple[str, int]
    used: Clock = field(default_factory=dict)


class Watch(TorchDispatchMode):
    """Sees every operation, and which stream it was asked of."""

    def __init__(self) -> None:
        super().__init__()
        self.clocks: dict[str, Clock] = {HOST: {HOST: 0}}
        self.memory: dict[int, Memory] = {}
        self.current = [HOST]
        self.num_uses = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.collect()
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        if any(found.alias_info is not None and not found.alias_info.is_write for found in schema.returns):
            return result  # a view touches no memory
        actor = self.current[-1]
        if actor != HOST:
            self.join(actor, HOST)  # the host asks for it now
        given = [*zip(schema.arguments, args, strict=False)]
        given += [(argument, kwargs[argument.name]) for argument in schema.arguments if argument.name in (kwargs or {})]
        for argument, value in given:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tensors(value):
                self.use(actor, tensor.untyped_storage().data_ptr(), writes, tensor)
        for tensor in tensors(result):
            if not func.__name__.startswith(("empty", "new_empty")):
                self.use(actor, tensor.untyped_storage().data_ptr(), True, tensor)
            else:
                self.know(tensor, actor, (HOST, 0))
        if "_local_scalar_dense" in str(func) and actor != HOST:
            self.join(HOST, actor)  # the host waits for a number
        return result

    def use(self, actor: str, address: int, writes: bool, tensor: Tensor | None = None) -> None:
        """One use of a storage by an actor, now."""
        self.num_uses += 1
        clock = self.clocks[actor]
        clock[actor] += 1
        now = clock[actor]
        known = self.memory.get(address)
        if known is None:
            assert tensor is not None
            self.know(tensor, actor, (actor, now))
            return
        who, when = known.written
        if clock.get(who, 0) < when:
            raise RaceError(f"{actor} uses what {who} has not written yet, as far as it knows")
        if writes:
            for other, at in known.used.items():
                if clock.get(other, 0) < at:
                    raise RaceError(f"{actor} overwrites what {other} may still be using")
            known.written, known.used = (actor, now), {}
        else:
            known.used[actor] = now

    def know(self, tensor: Tensor, home: str, written: tuple[str, int]) -> None:
        """A storage that was not seen before."""
        storage = tensor.untyped_storage()
        if storage.nbytes():
            self.memory[storage.data_ptr()] = Memory(StorageWeakRef(storage), storage.nbytes(), home, written)

    def collect(self) -> None:
        """Forget what is freed, once its stream may have it back."""
        for address, known in list(self.memory.items()):
            if known.storage.expired():
                del self.memory[address]
                home = self.clocks[known.home]
                for other, at in (known.written, *known.used.items()):
                    if max(home.get(other, 0), self.clocks[HOST].get(other, 0)) < at:
                        raise RaceError(f"memory of {known.home} is freed while {other} may still be using it")

    def join(self, one: str, other: str) -> None:
        """``one`` has now waited for all that is in ``other``."""
        self.merge(one, dict(self.clocks[other]))

    def merge(self, one: str, clock: Clock) -> None:
        self.collect()
        own = self.clocks[one]
        for name, at in clock.items():
            own[name] = max(own.get(name, 0), at)

    def host_uses(self, array: np.ndarray[Any, Any], writes: bool) -> None:
        """The host reads or writes memory without an operation of PyTorch."""
        address = array.__array_interface__["data"][0]
        for first, known in self.memory.items():
            if first <= address < first + known.size and not known.storage.expired():
                self.use(HOST, first, writes)


def tensors(value: Any) -> Iterable[Tensor]:
    """Those that hold anything."""
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.numel())


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Streams of TorchArrays are watched within; with one thread, as PyTorch's own modes are of a thread."""
    watch = Watch()

    class Stream(torcharrays.Stream):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.name = f"stream {len(watch.clocks)}"
            watch.clocks[self.name] = {self.name: 0}

        def __enter__(self) -> None:
            watch.current.append(self.name)

        def __exit__(self, *error: Any) -> None:
            watch.current.pop()

        def after(self, other: torcharrays.Stream) -> None:
            assert isinstance(other, Stream)
            watch.join(self.name, other.name)

        def mark(self) -> Callable[[], None]:
            then = dict(watch.clocks[self.name])
            return lambda: watch.merge(HOST, then)

    read, write = torcharrays.Extent.read, Output.write

    def reading(extent: torcharrays.Extent, host: Tensor) -> None:
        watch.host_uses(host.numpy(), writes=True)
        read(extent, host)

    def writing(output: Output, key: str, first: int, data: Any) -> None:
        if isinstance(data, np.ndarray):
            watch.host_uses(data, writes=False)
        write(output, key, first, data)

    monkeypatch.setattr(torcharrays, "Stream", Stream)
    monkeypatch.setattr(torcharrays.Extent, "read", reading)
    monkeypatch.setattr(Output, "write", writing)
    with watch:
        yield watch
