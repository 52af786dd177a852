"""Series of snapshots made from nothing: pools that live, with noise as real ones have it, and tags that misbehave."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from pykdext.model import (
    UNUSED,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    SystemMemory,
    TagUsage,
    TimeOrigin,
)

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
START = datetime(2024, 11, 12, 3, 41, tzinfo=timezone.utc)
INTERVAL = timedelta(minutes=15)
SAMPLES_A_DAY = 96
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def white_noise(rng, count):
    return [rng.gauss(0, 1) for _ in range(count)]


def mean_reverting_walk(rng, count):
    """An autoregressive process that remembers between 2 samples and half a day; its deviation is 1."""
    memory = rng.choice([0.5, 0.8, 0.9, 0.95, 0.98])
    level = rng.gauss(0, 1)
    walk = []
    for _ in range(count):
        walk.append(level)
        level = memory * level + math.sqrt(1 - memory * memory) * rng.gauss(0, 1)
    return walk


def daily_cycle(rng, count):
    phase, noise = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.5)
    return [math.sin(phase + 2 * math.pi * i / SAMPLES_A_DAY) + noise * rng.gauss(0, 1) for i in range(count)]


def bursts(rng, count):
    """Now and then much at once, which is given back soon or slowly."""
    decay, level, values = rng.choice([0.3, 0.7, 0.9, 0.95]), 0.0, []
    for _ in range(count):
        level = decay * level + (rng.expovariate(0.4) if rng.random() < 0.04 else 0)
        values.append(level + 0.1 * rng.gauss(0, 1))
    return values


NOISES = (white_noise, mean_reverting_walk, daily_cycle, bursts)


def tag_names(count):
    """``TAAA``, ``TAAB`` and so on: tags of no component of Windows."""
    names = ("T" + "".join(letters) for letters in itertools.product(_ALPHABET, repeat=3))
    return list(itertools.islice(names, count))


def usages_of(held_bytes, block_bytes, rng):
    """The counters of a tag that holds these bytes: blocks come and go all the time, and counters only rise."""
    allocs = frees = 0
    for held in held_bytes:
        outstanding = max(0, int(held) // block_bytes)
        churn, change = rng.randint(50, 500), outstanding - (allocs - frees)
        allocs += churn + max(0, change)
        frees += churn + max(0, -change)
        yield PoolUsage(allocs, frees, outstanding, outstanding * block_bytes)


def quiet_columns(rng, names, count):
    """Tag by tag its usages: noise of every kind, large enough that none is steady without a test."""
    for number, name in enumerate(names):
        level = 10 ** rng.uniform(6.3, 8.3)
        spread = level * rng.uniform(0.05, 0.15)
        noise = NOISES[number % len(NOISES)](rng, count)
        values = [max(0, level + spread * deviation) for deviation in noise]
        pool = PoolKind.NONPAGED if rng.random() < 0.6 else PoolKind.PAGED
        yield name, pool, list(usages_of(values, rng.choice([64, 144, 400, 1104]), rng))


def snapshots_of(columns, count, memory=None, host="server", **facts):
    """One snapshot for each sample of columns ``(name, pool, usages)``; a None among the usages is a tag not listed."""
    columns = [(PoolTag.from_text(name), pool, usages) for name, pool, usages in columns]
    for index in range(count):
        rows = [
            TagUsage(tag, usages[index], UNUSED) if pool is PoolKind.NONPAGED else TagUsage(tag, UNUSED, usages[index])
            for tag, pool, usages in columns
            if usages[index] is not None
        ]
        yield PoolSnapshot(
            source=SnapshotSource("poolmon log", f"log-{index:03}.txt"),
            tags=tuple(rows),
            taken_at=START + index * INTERVAL,
            host=host,
            time_from=TimeOrigin.HEADER,
            memory=memory or SystemMemory(),
            **facts,
        )


def quiet_series(seed, tag_count, sample_count=200):
    rng = random.Random(seed)
    return list(snapshots_of(quiet_columns(rng, tag_names(tag_count), sample_count), sample_count))


LEAK, SAWTOOTH, PLATEAU, CAUSE, VICTIM = "Leak", "Saw ", "Plat", "Caus", "Vict"
LEAK_BYTES_A_SAMPLE = 20 * KB
RESTART_AT = 40


def troubled_series(seed=1, tag_count=2000, sample_count=200):
    """A slow leak (1 % of its noise a sample), a sawtooth, a plateau, two tags in lockstep, a restart, and noise."""
    rng = random.Random(seed)
    names = tag_names(tag_count - 5)
    since_boot = [*range(RESTART_AT), *range(sample_count - RESTART_AT)]
    noise = white_noise(rng, sample_count)
    deviation = 100 * LEAK_BYTES_A_SAMPLE
    leak = [40 * MB + LEAK_BYTES_A_SAMPLE * age + deviation * noise[i] for i, age in enumerate(since_boot)]
    sawtooth = [30 * MB + 600 * KB * (age % 37) + 100 * KB * rng.gauss(0, 1) for age in since_boot]
    plateau = [20 * MB + 200 * KB * min(age, 80) + 60 * KB * rng.gauss(0, 1) for age in since_boot]
    columns = [
        (LEAK, PoolKind.NONPAGED, list(usages_of(leak, 1024, rng))),
        (SAWTOOTH, PoolKind.PAGED, list(usages_of(sawtooth, 512, rng))),
        (PLATEAU, PoolKind.NONPAGED, list(usages_of(plateau, 256, rng))),
        (CAUSE, PoolKind.NONPAGED, [_lockstep_usage(25 * age, 0, 200) for age in since_boot]),
        (VICTIM, PoolKind.PAGED, [_lockstep_usage(50 * age + rng.randint(0, 9), 3_000_000, 96) for age in since_boot]),
        *quiet_columns(rng, names, sample_count),
    ]
    before_restart = [(name, pool, [_as_if_up_for_weeks(usage) for usage in usages]) for name, pool, usages in columns]
    memory = SystemMemory(nonpaged_bytes=3 * GB, nonpaged_limit_bytes=4 * GB)
    first = list(snapshots_of(before_restart, sample_count, memory))[:RESTART_AT]
    return first + list(snapshots_of(columns, sample_count, memory))[RESTART_AT:]


def _lockstep_usage(grown, frees, block_bytes):
    outstanding = 1000 + grown
    return PoolUsage(frees + outstanding, frees, outstanding, outstanding * block_bytes)


def _as_if_up_for_weeks(usage):
    return replace(usage, allocs=usage.allocs + 900_000_000, frees=usage.frees + 900_000_000)
