"""The tools that read physical pages of a dump, by one interface, each in a process of its own.

``python -m tests.benchmarks.pagereaders TOOL PLAN`` prints the samples of one tool as JSON. Without a plan the tool
is only imported.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from typing import Dict, List, Optional, Sequence, Type

from tests.benchmarks.largedumps import PAGE_BYTES, digest_of, open_descriptor

REPEATED_SECONDS = 0.3
"""Quick opens are repeated so long in one process."""


class PageReader(ABC):
    """A tool: imported by ``__init__``, then opened, read and closed, any number of times."""

    @abstractmethod
    def open(self, path: str) -> None:
        """Open a dump."""

    @abstractmethod
    def read(self, addresses: Sequence[int]) -> List[bytes]:
        """The pages at these physical addresses."""

    @abstractmethod
    def close(self) -> None:
        """Close the dump."""


class PykdextReader(PageReader):
    def __init__(self) -> None:
        from pykdext.targets.dump.compressed import open_file
        from pykdext.targets.dump.containers import open_container
        from pykdext.targets.dump.header import parse_header

        self._open_file, self._parse_header, self._open_container = open_file, parse_header, open_container

    def open(self, path: str) -> None:
        self._file = self._open_file(path)
        self._memory = self._open_container(self._file, self._parse_header(self._file))

    def read(self, addresses: Sequence[int]) -> List[bytes]:
        read = self._memory.read_physical
        return [read(address, PAGE_BYTES) for address in addresses]

    def close(self) -> None:
        self._file.close()


class LeechCoreReader(PageReader):
    def __init__(self) -> None:
        from leechcorepyc import LeechCore

        self._factory = LeechCore

    def open(self, path: str) -> None:
        self._core = self._factory(f"file://{path}")

    def read(self, addresses: Sequence[int]) -> List[bytes]:
        read = self._core.read
        return [read(address, PAGE_BYTES) for address in addresses]

    def close(self) -> None:
        self._core.close()


class KdmpReader(PageReader):
    def __init__(self) -> None:
        from kdmp_parser import KernelDumpParser

        self._factory = KernelDumpParser

    def open(self, path: str) -> None:
        self._dump = self._factory(path)

    def read(self, addresses: Sequence[int]) -> List[bytes]:
        read = self._dump.read_physical_page
        return [read(address) for address in addresses]

    def close(self) -> None:
        del self._dump


class VolatilityReader(PageReader):
    def __init__(self) -> None:
        from volatility3.framework import contexts
        from volatility3.framework.layers.crash import WindowsCrashDump64Layer
        from volatility3.framework.layers.physical import FileLayer

        logging.getLogger("volatility3").setLevel(logging.CRITICAL)
        self._new_context, self._file_layer, self._crash_layer = contexts.Context, FileLayer, WindowsCrashDump64Layer

    def open(self, path: str) -> None:
        context = self._new_context()
        context.config["file.location"] = f"file://{path}"
        context.config["crash.base_layer"] = "file"
        context.add_layer(self._file_layer(context, "file", "file"))
        self._layer = self._crash_layer(context, "crash", "crash")

    def read(self, addresses: Sequence[int]) -> List[bytes]:
        read = self._layer.read
        return [read(address, PAGE_BYTES) for address in addresses]

    def close(self) -> None:
        self._layer.destroy()


class PreadReader(PageReader):
    """The floor: is told by ``offsets`` where the pages are in the file."""

    def __init__(self) -> None:
        self.offsets: Dict[int, int] = {}

    def open(self, path: str) -> None:
        self._descriptor = open_descriptor(path)

    def read(self, addresses: Sequence[int]) -> List[bytes]:
        offsets, descriptor, read = self.offsets, self._descriptor, os.pread
        return [read(descriptor, PAGE_BYTES, offsets[address]) for address in addresses]

    def close(self) -> None:
        os.close(self._descriptor)


READERS: Dict[str, Type[PageReader]] = {
    "pykdext": PykdextReader,
    "LeechCore": LeechCoreReader,
    "kdmp-parser": KdmpReader,
    "volatility3": VolatilityReader,
    "os.pread": PreadReader,
}


def measure(reader: PageReader, path: str, addresses: Sequence[int], digests: Sequence[str]) -> Dict[str, List[float]]:
    """Samples in seconds: ``first`` and ``last`` of opening and reading one page, ``page`` of one page of many.

    ValueError if a page is not what was written.
    """
    samples: Dict[str, List[float]] = {"first": [], "last": [], "page": []}
    ends = {"first": (addresses[0], digests[0]), "last": (addresses[-1], digests[1])}
    started = time.perf_counter()
    while not samples["first"] or time.perf_counter() - started < REPEATED_SECONDS:
        for name, (address, digest) in ends.items():
            began = time.perf_counter()
            reader.open(path)
            pages = reader.read([address])
            samples[name].append(time.perf_counter() - began)
            _check(pages, digest)
            reader.close()
    reader.open(path)
    _check(reader.read(addresses), digests[2])  # also brings all pages into the system's cache
    for _ in range(3):
        began = time.perf_counter()
        reader.read(addresses)
        samples["page"].append((time.perf_counter() - began) / len(addresses))
    reader.close()
    return samples


def _check(pages: Sequence[bytes], digest: str) -> None:
    if digest_of(pages) != digest:
        raise ValueError("wrong bytes")


def main(tool: str, plan_file: Optional[str] = None) -> None:
    """Print the samples, or why there are none."""
    try:
        reader = READERS[tool]()
        answer: Dict[str, List[float]] = {}
        if plan_file is not None:
            with open(plan_file, encoding="ascii") as file:
                plan = json.load(file)
            if isinstance(reader, PreadReader):
                reader.offsets = dict(zip(plan["addresses"], plan["offsets"]))
            answer = measure(reader, plan["path"], plan["addresses"], plan["digests"])
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its answer
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
