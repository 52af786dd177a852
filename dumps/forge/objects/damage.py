"""Which pages the variant of a scenario lacks: those that a dump of a machine under pressure lacks most often."""

from __future__ import annotations

from dumps.forge.machine import ForgedMachine
from dumps.forge.objects.population import Population
from dumps.forge.objects.truth import ObjectTruth
from dumps.forge.physical import PAGE_BYTES

_EVERY_PAGE = 5  # of the holder's handle pages so many-th is missing


def lose_pages(machine: ForgedMachine, population: Population, truth: ObjectTruth) -> None:
    """Leave pages out of the dump and write into the truth what cannot be read then."""
    for held in population.held:
        pages = truth.table_pages[held.pid]
        for number in range(1, len(pages), _EVERY_PAGE):
            machine.omit(machine.addresses[f"handles:{held.pid}:{number}"], PAGE_BYTES)
            truth.lost_handles += pages[number]
        if held.zombie_image is not None:
            lost = truth.processes[len(truth.processes) - held.count // 2]
            machine.omit(lost.va, 1)
            page = lost.va & -PAGE_BYTES
            gone = [process.pid for process in truth.processes if process.va & -PAGE_BYTES == page]
            truth.lost_processes = tuple(gone)
    if population.referenced is not None:
        for page in sorted({va & -PAGE_BYTES for va in truth.referenced})[::2]:
            machine.omit(page, PAGE_BYTES)
    for number in range(1, 1000, 3):
        for driver in population.verified:
            name = f"verifier:{driver.driver}:{number}"
            if name in machine.addresses:
                machine.omit(machine.addresses[name], PAGE_BYTES)
    if "verifier-log" in machine.addresses:
        machine.omit((machine.addresses["verifier-log"] & -PAGE_BYTES) + PAGE_BYTES, PAGE_BYTES)
    if population.lookasides:
        loose = [item for item in truth.lookasides if item.driver is None]
        for item in loose[:1]:
            machine.omit(item.va, 1)
