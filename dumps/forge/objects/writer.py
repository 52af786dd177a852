"""Writes the population of a machine: types, processes, objects and the tables of handles to them."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects import headers
from dumps.forge.objects.blocks import BlockWriter
from dumps.forge.objects.bodies import BodyWriter
from dumps.forge.objects.handles import EntryPages, table_bytes, write_table
from dumps.forge.objects.layouts import ObjectLayouts, object_variables
from dumps.forge.objects.lookasides import write_lookasides
from dumps.forge.objects.population import TYPE_FLAGS, HeldObjects, Population, TypePlan, plan_processes
from dumps.forge.objects.processbody import pack_process
from dumps.forge.objects.requests import write_requests
from dumps.forge.objects.traces import TraceWriter
from dumps.forge.objects.truth import ObjectTruth, ProcessTruth, TypeTruth
from dumps.forge.objects.verifier import write_verifier
from dumps.forge.parts import Parts
from dumps.forge.poolblocks import PoolBlock
from dumps.forge.sessions import write_structure

_SECOND = 10_000_000
_UNHELD_WRITTEN = 64  # objects without a handle that are really there, of each type
_FIRST_TYPE_INDEX = 2
_SYSTEM_PID = 4
_FIRST_WITH_INDEX = 7000


@dataclass
class _Process:
    """A process in the making; ``handles`` are the headers that it points at, with their types."""

    image: str
    pid: int
    parent: int
    threads: int
    session: Optional[int]
    created_at: int
    exited_at: int = 0
    va: int = 0
    own_handles: int = 0
    handles: List[int] = field(default_factory=list)
    handle_types: Dict[str, int] = field(default_factory=dict)


class ObjectWriter:
    """Writes everything in two steps: ``write`` before the processors, ``link`` when the variables are there."""

    def __init__(
        self,
        parts: Parts,
        modules: LoadedModules,
        types: List[TypePlan],
        now: int,
        uptime: int,
        *,
        traced: bool = False,
    ) -> None:
        """``traced``: references and the handles of whoever leaks them are recorded."""
        self._parts = parts
        self._kernel = parts.kernel
        self._architecture = parts.kernel.architecture
        self._pack = self._architecture.pack_pointers
        self._modules = modules
        self._plans = {plan.name: plan for plan in types}
        self._now, self._started_at = now, now - uptime * _SECOND
        self._chance = random.Random(parts.chance.getrandbits(64))
        self._blocks = BlockWriter(parts)
        self._layouts = ObjectLayouts(parts.kernel)
        self._bodies = BodyWriter(parts, modules, self._blocks, self._layouts)
        self._form = headers.header_form(self._architecture)
        self._types: Dict[str, TypeTruth] = {}
        self._tables: List[Tuple[int, bytes]] = []
        self._threads: List[int] = []
        self._numbers_va = 0
        self._variables = object_variables(parts.kernel)
        self._traces = TraceWriter(parts, modules, self._variables) if traced and self._variables else None
        self._leakers: List[int] = []
        self.truth = ObjectTruth()
        if headers.encodes_types(parts.kernel.build):
            self.truth.cookie = self._chance.randrange(0x10, 0x100) | self._chance.getrandbits(24) << 8

    @property
    def blocks(self) -> Dict[bytes, List[PoolBlock]]:
        """The blocks of all objects, by tag."""
        return self._blocks.blocks

    def write(self, population: Population) -> None:
        """Write all objects; ``addresses`` of the parts then has ``process``, the System process."""
        self._write_types()
        processes = self._plan_processes(population)
        zombies = self._plan_zombies(population)
        for process in (*processes, *zombies):
            process.va = self._reserve_process(process)
        system = processes[0]
        self._parts.addresses["process"] = system.va
        self._hold(system, "Process", self._header_of(system.va), system)
        self._leakers = [held.pid for held in population.held]
        self._fill_tables(processes)
        for held in population.held:
            holder = next(process for process in processes if process.pid == held.pid)
            self._hold_leak(holder, held, zombies)
        self._write_unheld(system)
        if population.referenced is not None:
            self._write_referenced(population)
        if population.pending is not None:
            holder = next(process for process in processes if process.pid == population.pending.pid)
            write_requests(self._parts, self._blocks, self._bodies, population.pending, holder.va)
        self._write_processes([*processes, *zombies])
        self._write_numbers([*processes, *zombies])
        write_verifier(self._parts, self._modules, self._variables, self._blocks, population, self.truth)
        self._blocks.finish()
        self.truth.lookasides = write_lookasides(self._parts, self._modules, self._variables, population)

    def link(self) -> None:
        """Write the variables of nt that lead to all this."""
        parts = self._parts
        ring = [process.va + self._layouts.process["Links"] for process in self.truth.processes]
        head = parts.variable("PsActiveProcessHead")
        self._write_ring(head, ring)
        parts.set_variable("PspCidTable", self._numbers_va)
        parts.set_variable("ObpTypeObjectType", self._types["Type"].va)
        if "MmVerifierData" in self._kernel.variables:
            level = struct.pack("<I", self.truth.verifier_level)
            parts.space.store(parts.variable("MmVerifierData"), level)
        table_head = self._variables.get("HandleTableListHead")
        link = self._layouts.table["Links"]
        tables = [va + link for va, _ in self._tables]
        if table_head is not None:
            self._write_ring(table_head, tables)
        if "ObTypeIndexTable" in self._variables:
            types = [self._types[name].va for name in self._plans]
            data = self._pack(0, 0xFFFFF8000BAD0BAD & ~0xF, *types).ljust(0x800, b"\0")
            parts.space.store(self._variables["ObTypeIndexTable"], data)
        if "ObHeaderCookie" in self._variables and self.truth.cookie is not None:
            parts.space.store(self._variables["ObHeaderCookie"], struct.pack("<I", self.truth.cookie))
        if "ObpKernelHandleTable" in self._variables:
            parts.space.store(self._variables["ObpKernelHandleTable"], self._pack(self._tables[0][0]))
        if "ExpFreeListCount" in self._variables:
            parts.space.store(self._variables["ExpFreeListCount"], struct.pack("<I", 4))

    def _write_ring(self, head: int, links: List[int]) -> None:
        ring = [head, *links, head]
        for number, va in enumerate(links, start=1):
            self._parts.space.store(va, self._pack(ring[number + 1], ring[number - 1]))
        self._parts.space.store(head, self._pack(ring[1], ring[-2]))

    # -- types

    def _write_types(self) -> None:
        """Write the type objects, each behind its name and its creator part, in one ring by the type of types."""
        layout, mask = self._layouts.type, headers.CREATOR | headers.NAME
        before = self._form.parts_bytes(mask)
        flat = self._kernel.build < _FIRST_WITH_INDEX
        places = {}
        for name in self._plans:
            start = self._blocks.reserve(b"ObjT", before + self._form.size + layout["Size"], paged=False)
            places[name] = start + before + self._form.size
        links = [va - self._form.size - self._form.part_offset(mask, headers.CREATOR) for va in places.values()]
        head = places["Type"] + layout["TypeList"]
        ring = [head, *links, head]
        for number, (name, va) in enumerate(places.items(), start=1):
            plan = self._plans[name]
            index = number if flat else number - 1 + _FIRST_TYPE_INDEX
            header_va = va - self._form.size
            header = self._pack_header(header_va, "Type", places["Type"], 0, 2, mask=mask)
            self._blocks.put(header_va, header)
            self._blocks.put(links[number - 1], self._pack(ring[number + 1], ring[number - 1], _SYSTEM_PID))
            name_va = header_va - self._form.part_offset(mask, headers.NAME)
            self._blocks.put(name_va, self._pack(0) + self._bodies.write_name(name))
            self._blocks.put(va, self._pack_type(plan, index))
            list_va = va + layout["TypeList"]
            is_head = name == "Type"
            self._blocks.put(list_va, self._pack(links[0], links[-1]) if is_head else self._pack(list_va, list_va))
            counts = (plan.objects, plan.handles, plan.most_objects, plan.most_handles)
            self._types[name] = TypeTruth(va, name, plan.key, index, *counts, plan.paged)
        self.truth.types = list(self._types.values())

    def _pack_type(self, plan: TypePlan, index: int) -> bytes:
        layout = self._layouts.type
        data = bytearray(layout["Size"])
        name = self._bodies.write_name(plan.name)
        data[layout["Name"] : layout["Name"] + len(name)] = name
        data[layout["Index"]] = index
        counts = (plan.objects, plan.handles, plan.most_objects, plan.most_handles)
        struct.pack_into("<4I", data, layout["Counters"], *counts)
        data[layout["TypeInfo"] + 2] = TYPE_FLAGS.get(plan.name, 0)
        nonpaged = 0x200 if self._kernel.build >= 9200 else 0
        struct.pack_into("<I", data, layout["PoolType"], 1 if plan.paged else nonpaged)
        data[layout["Key"] : layout["Key"] + 4] = plan.key
        return bytes(data)

    def _pack_header(
        self, va: int, type_name: str, type_va: int, handles: int, references: int, *, mask: int = 0, flags: int = 0
    ) -> bytes:
        known = self._types.get(type_name)
        return headers.pack_header(
            self._architecture,
            self._kernel.build,
            va,
            handles=handles,
            references=references,
            type_index=known.index if known is not None else _FIRST_TYPE_INDEX,
            type_va=type_va,
            cookie=self.truth.cookie,
            mask=mask,
            flags=flags,
        )

    # -- objects

    def _write_object(self, type_name: str, holder: _Process, handles: int, *, key_va: int = 0) -> int:
        """Write an object that a process holds and return the address of its header."""
        body = self._bodies.body(type_name, holder.pid, holder.va, key_va)
        header_va = self._place_object(type_name, body, holder.va, handles, 1 if handles else 2)
        if type_name == "Thread":
            self._threads.append(header_va + self._form.size)
        return header_va

    def _place_object(self, type_name: str, body: bytes, holder_va: int, handles: int, references: int) -> int:
        kind = self._types[type_name]
        mask = headers.QUOTA | (headers.HANDLES if type_name == "File" and handles else 0)
        before, size = self._form.parts_bytes(mask), self._bodies.size(type_name)
        header_va = self._blocks.reserve(kind.key, before + self._form.size + size, paged=kind.paged) + before
        flags = headers.SINGLE_HANDLE_ENTRY if mask & headers.HANDLES else 0
        header = self._pack_header(header_va, type_name, kind.va, handles, references, mask=mask, flags=flags)
        self._blocks.put(header_va, header + body)
        quota_va = header_va - self._form.part_offset(mask, headers.QUOTA)
        self._blocks.put(quota_va, struct.pack("<II", *((size, 0) if kind.paged else (0, size))))
        if mask & headers.HANDLES:
            entry_va = header_va - self._form.part_offset(mask, headers.HANDLES)
            self._blocks.put(entry_va, self._pack(holder_va) + struct.pack("<I", handles))
        return header_va

    def _hold(self, process: _Process, type_name: str, header: int, target: Optional[_Process] = None) -> None:
        process.handles.append(header)
        process.handle_types[type_name] = process.handle_types.get(type_name, 0) + 1
        if target is not None:
            target.own_handles += 1

    def _fill_tables(self, processes: List[_Process]) -> None:
        """Give the background its handles: as many as the types count, to objects that some handles share."""
        shares = [process.threads + 1 for process in processes]
        for name, plan in self._plans.items():
            if name == "Process":
                for _ in range(max(0, plan.handles - self._held_handles(name) - 1)):
                    holder, target = self._chance.choices(processes, shares, k=2)
                    self._hold(holder, name, self._header_of(target.va), target)
                continue
            wanted = plan.handles - self._held_handles(name)
            while wanted > 0:
                handles = min(wanted, 1 if self._chance.random() < 0.9 else 2)
                holder = self._chance.choices(processes, shares)[0]
                header = self._write_object(name, holder, handles)
                for _ in range(handles):
                    self._hold(holder, name, header)
                wanted -= handles

    def _held_handles(self, type_name: str) -> int:
        return self._leaks.get(type_name, 0)

    def _hold_leak(self, holder: _Process, held: HeldObjects, zombies: List[_Process]) -> None:
        """Let the holder have its leak: a handle to each zombie, or to each of so many new objects."""
        if held.zombie_image is not None:
            for zombie in zombies:
                self._hold(holder, "Process", self._header_of(zombie.va), zombie)
            return
        key_va = self._bodies.write_key_path(held.key_path) if held.key_path else 0
        self.truth.key_path = "\\" + "\\".join(held.key_path) if held.key_path else ""
        for _ in range(held.count):
            self._hold(holder, held.type_name, self._write_object(held.type_name, holder, 1, key_va=key_va))

    def _write_unheld(self, system: _Process) -> None:
        """Write some objects that no handle is on, as every machine has."""
        for name, plan in self._plans.items():
            if name not in ("Type", "Process") and plan.objects > plan.handles:
                for _ in range(min(_UNHELD_WRITTEN, plan.objects - plan.handles)):
                    self._write_object(name, system, 0)

    def _write_referenced(self, population: Population) -> None:
        """Write the objects that only a driver knows, and the driver's blocks that point at them."""
        plan = population.referenced
        assert plan is not None
        code_va, data_va = self._modules.pointers_into(plan.driver)
        bodies = []
        for _ in range(plan.written):
            body = self._bodies.token(plan.source) if plan.type_name == "Token" else b""
            bodies.append(self._place_object(plan.type_name, body, 0, 0, 1) + self._form.size)
        for body_va in bodies:
            va = self._blocks.reserve(plan.holder_tag, plan.holder_bytes - 0x10, paged=False)
            self._blocks.put(va, self._pack(va, va, data_va, body_va, code_va)[: plan.holder_bytes - 0x10])
        self.truth.referenced = tuple(bodies)
        if self._traces is not None:
            headers_of = [body_va - self._form.size for body_va in bodies]
            self._traces.write_references(plan.driver, headers_of, self.truth)

    # -- processes

    def _plan_processes(self, population: Population) -> List[_Process]:
        self._leaks: Dict[str, int] = {}
        for held in population.held:
            self._leaks[held.type_name] = self._leaks.get(held.type_name, 0) + held.count
        started = self._started_at
        system = _Process("System", _SYSTEM_PID, 0, 147, None, started)
        processes = [system]
        pid = 0x124
        for number, plan in enumerate(plan_processes()):
            moment = started + (number + 1) * 2 * _SECOND
            processes.append(_Process(plan.image, pid, _SYSTEM_PID, plan.threads, plan.session, moment))
            pid += 4 * self._chance.randrange(1, 30)
        services = next(process for process in processes if process.image == "services.exe")
        taken = {held.pid for held in population.held}
        for process in processes:
            if process.pid in taken:
                process.pid += 2  # a PID is a multiple of four: nobody else has it
        for held in population.held:
            if all(process.pid != held.pid for process in processes):
                moment = started + 3600 * _SECOND
                processes.append(_Process(held.image, held.pid, services.pid, held.threads, held.session, moment))
        return processes

    def _plan_zombies(self, population: Population) -> List[_Process]:
        zombies = []
        for held in population.held:
            if held.zombie_image is None:
                continue
            step = max(1, (self._now - self._started_at) // (held.count + 1))
            for number in range(held.count):
                odd = held.odd_image is not None and number % held.odd_share == held.odd_share - 1
                image = held.odd_image if odd and held.odd_image is not None else held.zombie_image
                created = self._started_at + step * number
                zombies.append(
                    _Process(image, 0x10000 + 4 * number, held.pid, 0, held.session, created, created + _SECOND)
                )
        return zombies

    def _reserve_process(self, process: _Process) -> int:
        before = 0 if process.pid == _SYSTEM_PID else self._form.parts_bytes(headers.QUOTA)
        size = before + self._form.size + self._kernel.sizes.eprocess
        return self._blocks.reserve(b"Proc", size, paged=False) + before + self._form.size

    def _header_of(self, va: int) -> int:
        return va - self._form.size

    def _write_processes(self, processes: List[_Process]) -> None:
        sessions: Dict[int, int] = {}
        for process in processes:
            table_va = 0
            if not process.exited_at:
                table_va = self._write_handles(process)
            if process.session is not None and process.session not in sessions:
                sessions[process.session] = write_structure(self._parts, self._blocks, process.session)
            session_va = 0 if process.session is None else sessions[process.session]
            truth = ProcessTruth(
                va=process.va,
                image=process.image,
                pid=process.pid,
                parent=process.parent,
                session_va=session_va,
                session=process.session,
                created_at=process.created_at,
                exited_at=process.exited_at,
                threads=process.threads,
                handles=len(process.handles),
                nonpaged_charge=len(process.handles) * 0x90 + process.threads * 0x500,
                paged_charge=len(process.handles) * 0x70 + 0x8000,
                commit_pages=0 if process.exited_at else 100 + process.threads * 60,
                handle_types=dict(process.handle_types),
            )
            mask = 0 if process.pid == _SYSTEM_PID else headers.QUOTA
            header_va = self._header_of(process.va)
            kind = self._types["Process"]
            alive = 0 if process.exited_at else 1
            header = self._pack_header(header_va, "Process", kind.va, process.own_handles, alive, mask=mask)
            self._blocks.put(header_va, header)
            self._blocks.put(process.va, pack_process(self._parts, self._layouts, truth, table_va))
            self.truth.processes.append(truth)

    def _write_handles(self, process: _Process) -> int:
        self._chance.shuffle(process.handles[1:])
        entries = EntryPages(self._kernel, process.handles)
        va = self._blocks.reserve(b"Obtb", table_bytes(self._kernel), paged=True)
        data = write_table(self._parts, self._layouts.table, va, entries, process.pid, process.va)
        if self._traces is not None and process.pid in self._leakers:
            trace_va = self._pack(self._traces.pack_handles(process.pid, len(process.handles)))
            place = self._traces.debug_info_offset()
            data = data[:place] + trace_va + data[place + len(trace_va) :]
        self._blocks.put(va, data)
        self._tables.append((va, data))
        self.truth.table_pages[process.pid] = tuple(entries.live_by_page)
        return va

    def _write_numbers(self, processes: List[_Process]) -> None:
        """Write the table of numbers: its entries lead to the bodies of processes and threads."""
        numbers = [process.pid for process in processes] + [0] * len(self._threads)
        entries = EntryPages(self._kernel, [*(process.va for process in processes), *self._threads], numbers)
        self._numbers_va = self._blocks.reserve(b"Obtb", table_bytes(self._kernel), paged=True)
        self._blocks.put(
            self._numbers_va, write_table(self._parts, self._layouts.table, self._numbers_va, entries, 0, 0)
        )
        self.truth.numbered_threads = len(self._threads)
