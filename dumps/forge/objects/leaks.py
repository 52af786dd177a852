"""What leaks in the scenarios of objects, by how many objects there are."""

from __future__ import annotations

from dumps.forge.objects.population import (
    HeldObjects,
    LookasidePlan,
    PendingRequests,
    Population,
    ReferencedObjects,
    VerifiedDriver,
)

_WRITTEN = 600  # of referenced objects and pending requests so many are in the dump
_TRACKED = 1_000


def leak_handles(count: int) -> Population:
    """Return a process that never closes the events that it makes."""
    return Population(held=(HeldObjects("printmon.exe", 4312, "Event", count, session=1),))


def leak_zombies(count: int) -> Population:
    """Return a process that keeps a handle to every process that it watched."""
    watched = HeldObjects("watchman.exe", 2428, "Process", count, zombie_image="cmd.exe", odd_image="conhost.exe")
    return Population(held=(watched,))


def leak_keys(count: int) -> Population:
    """Return a process that opens one registry key again and again."""
    path = ("REGISTRY", "MACHINE", "SOFTWARE", "Contoso", "Policies")
    return Population(held=(HeldObjects("policysvc.exe", 5120, "Key", count, key_path=path),))


def leak_references(count: int) -> Population:
    """Return a driver that keeps references to tokens: nobody has a handle to them."""
    written = min(count, _WRITTEN)
    return Population(referenced=ReferencedObjects("holder.sys", b"Hldr", 0x40, "Token", count, written))


def leak_requests(count: int) -> Population:
    """Return a driver that never completes the reads of one process."""
    return Population(pending=PendingRequests("pippo.sys", 0x124, count, min(count, _WRITTEN)))


def leak_lookaside(count: int) -> Population:
    """Return a driver whose blocks, of a tag that no code carries, come from its lookaside list."""
    plan = LookasidePlan("globus.sys", b"Lkas", 0x3F0, False, "data", 9 * count, count + 40, 8 * count, 40)
    return Population(lookasides=(plan,))


def leak_verified(count: int) -> Population:
    """Return a driver that leaks while Driver Verifier watches it, and one that does not."""
    tracked = min(count, _TRACKED)
    return Population(
        verified=(
            VerifiedDriver("globus.sys", b"VfGl", 12, 0x130, 12),
            VerifiedDriver("lookas.sys", b"VfLk", count, 0x420, tracked),
        )
    )
