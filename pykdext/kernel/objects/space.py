"""Everything that a kernel's memory tells of its objects, read when it is first asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Collection, Dict, Optional, Tuple

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.census import CensusTaker
from pykdext.kernel.objects.cidtable import read_numbers
from pykdext.kernel.objects.contents import ContentsReader
from pykdext.kernel.objects.handletables import HandleTableReader
from pykdext.kernel.objects.handletraces import read_handle_trace
from pykdext.kernel.objects.headers import HeaderReader
from pykdext.kernel.objects.lookasides import find_lists_in_images, read_lookasides
from pykdext.kernel.objects.objecttypes import TypeReader, TypeTable
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.pooltraces import PoolTraceLog, read_pool_traces
from pykdext.kernel.objects.processes import ProcessReader
from pykdext.kernel.objects.referencetraces import ReferenceTraces, read_reference_traces
from pykdext.kernel.objects.requests import RequestReader
from pykdext.kernel.objects.stuckexits import find_stuck_exits
from pykdext.kernel.objects.verifier import read_verifier
from pykdext.model import PoolTag
from pykdext.model.objects import (
    HandleCensus,
    LookasideList,
    LookasideLists,
    NumberCensus,
    Process,
    ProcessList,
    StuckProcess,
)
from pykdext.model.traces import OpenedAt, VerifierReport
from pykdext.work import UNWATCHED, Work


class ObjectSpace:
    """The objects of one kernel. An end of the ``work`` by the user leaves what was read until then."""

    def __init__(self, kernel: Kernel, work: Work = UNWATCHED, *, counts_twice: bool = False) -> None:
        """``counts_twice``: the table of numbers is read even where the list of processes is whole."""
        self.kernel = kernel
        self._counts_twice = counts_twice
        self._work = work
        self.pages = PageReader(kernel.target)
        self.headers = HeaderReader(self.pages, kernel.target.pointer_size, kernel.build)
        self.contents = ContentsReader(kernel, self.pages, self.headers)
        self.requests = RequestReader(self.pages, self.contents, kernel.target.pointer_size)

    @cached_property
    def types(self) -> TypeTable:
        """The object types; the headers' cookie is known afterwards."""
        return TypeReader(self.kernel, self.pages, self.headers).read()

    @cached_property
    def processes(self) -> ProcessList:
        """The processes of the kernel's list, and those that only the table of numbers has."""
        listed = self._listed
        numbers = self.numbers if self._counts_twice or listed.lost != 0 else None
        more = () if numbers is None else self._process_reader.read_at(numbers.unlisted)
        if not more:
            return listed
        found = replace(listed, processes=(*listed.processes, *more), unlisted=more)
        if listed.lost == 0:
            return found
        warning = f"processes: {len(more):,} that their list has lost were found by the table of numbers"
        lost = None if listed.lost is None else max(0, listed.lost - len(more))
        return replace(found, lost=lost, warnings=(*listed.warnings, warning))

    @cached_property
    def numbers(self) -> Optional[NumberCensus]:
        """Who bears a number of a process or thread; None: nothing tells where their table is."""
        return read_numbers(self.kernel, self.pages, self.tables, self._listed, self._work)

    @cached_property
    def _process_reader(self) -> ProcessReader:
        return ProcessReader(self.kernel, self.pages, self.headers, self.tables)

    @cached_property
    def _listed(self) -> ProcessList:
        return self._process_reader.read(self._work)

    @cached_property
    def zombies(self) -> Dict[int, Process]:
        """The exited processes by the address of their object's header."""
        offset = self.headers.body_offset
        return {process.address - offset: process for process in self.processes.processes if process.is_zombie}

    @cached_property
    def stuck_exits(self) -> Tuple[StuckProcess, ...]:
        """The processes that cannot exit."""
        return find_stuck_exits(self.kernel, self.pages, self.requests, self.processes.processes)

    @cached_property
    def lookasides(self) -> LookasideLists:
        """The lookaside lists of drivers."""
        return read_lookasides(self.kernel, self.pages)

    def find_lookasides(self, tags: Collection[PoolTag]) -> Tuple[LookasideList, ...]:
        """The lookaside lists of some tags: of all that the kernel links, else of those in drivers' data."""
        if self.lookasides.found:
            return tuple(item for item in self.lookasides.lists if item.tag in tags)
        return find_lists_in_images(self.kernel, self.pages, tags)

    @cached_property
    def verifier(self) -> VerifierReport:
        """What Driver Verifier counts."""
        return read_verifier(self.kernel, self.pages)

    @cached_property
    def pool_traces(self) -> Optional[PoolTraceLog]:
        """Driver Verifier's log of the last calls that allocate and free pool; None: it keeps none."""
        return read_pool_traces(self.kernel, self.pages) if self.verifier.level else None

    @cached_property
    def reference_traces(self) -> Optional[ReferenceTraces]:
        """The references to objects that Windows recorded; None: nobody asked it to."""
        return read_reference_traces(self.kernel, self.pages)

    def find_openers(self, process: Process) -> Tuple[OpenedAt, ...]:
        """Where the handles of a process were opened, if they are traced."""
        return () if process.handle_table is None else read_handle_trace(self.kernel, self.pages, process.handle_table)

    def take_census(self, process: Process) -> HandleCensus:
        """What the handles of a process lead to."""
        types = self.types
        taker = CensusTaker(self.tables, self.headers, types, self.contents)
        return taker.take(process, self.zombies, self._work)

    @cached_property
    def tables(self) -> HandleTableReader:
        """The reader of handle tables."""
        return HandleTableReader(self.kernel, self.pages)
