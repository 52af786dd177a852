"""One law: an answer depends on the input alone, not on what was read before, its order, or the number of processes."""

from __future__ import annotations

import json
import random

import pytest

from dumps.forge import forge
from pykdext.cli.main import main

PAGE = 4096


def damage_driver(machine, chance, name, way):
    """Some pages of a driver that the tag's evidence is in: not in the dump, or zeros."""
    base, size = next((base, size) for module, base, size, _ in machine.truth.modules if module == name)
    pages = range(base + PAGE, base + size, PAGE)
    for va in chance.sample(pages, max(len(pages) // 2, 1)):
        if way == "holes":
            machine.omit(va, PAGE)
        else:
            try:
                machine.write_virtual(va, bytes(PAGE))
            except ValueError:
                continue


WAYS = (
    ("pipo", "pippo.sys", None),
    ("pipo", "pippo.sys", "holes"),
    ("pipo", "pippo.sys", "zeros"),
    ("twins", "twinone.sys", None),
    ("twins", "twinone.sys", "holes"),
    ("twins", "twinone.sys", "zeros"),
)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """The same drivers in several states: whole, with holes, with pages of zeros."""
    folder = tmp_path_factory.mktemp("machines")
    paths = []
    for number, (scenario, driver, way) in enumerate(WAYS):
        machine = forge(scenario)
        if way:
            damage_driver(machine, random.Random(number), driver, way)
        paths.append(folder / f"{number}.dmp")
        machine.save(paths[-1])
    return paths


def ask(capsys, *words):
    main([*map(str, words), "--format", "json"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def verdicts(machines):
    """Each machine alone, with no cache at all, as the tests of this project run."""
    found = {}
    for path in machines:
        answer = path.with_suffix(".json")
        assert main(["analyze", str(path), "--format", "json", "-o", str(answer)]) == 0
        found[path] = json.loads(answer.read_text())
    return found


@pytest.mark.parametrize("seed", range(2))
def test_the_order_in_which_dumps_warm_the_cache_changes_no_verdict(
    machines, verdicts, seed, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("POOLLEAK_CACHE", str(tmp_path / "cache"))
    order = machines * 2
    random.Random(seed).shuffle(order)
    for path in order:
        assert ask(capsys, "analyze", path) == verdicts[path], f"{path.name} in {[other.name for other in order]}"


def test_a_batch_says_the_same_in_any_order_and_by_any_number_of_processes(
    machines, verdicts, monkeypatch, capsys, tmp_path
):
    answers = []
    for number, jobs in enumerate((1, 3)):
        monkeypatch.setenv("POOLLEAK_CACHE", str(tmp_path / f"cache-{number}"))
        order = machines[2:]
        random.Random(number).shuffle(order)
        found = ask(capsys, "batch", *order, "--jobs", jobs, "--host-from", "name")
        del found["run"]
        found["dumps"].sort(key=lambda row: row["path"])
        answers.append(found)
    assert answers[0] == answers[1]
    by_path = {row["path"]: row["report"] for row in answers[0]["dumps"]}
    assert by_path == {str(path): verdicts[path] for path in machines[2:]}


def test_driver_files_say_the_same_in_any_order_and_by_any_number_of_processes(capsys, monkeypatch, tmp_path):
    from tests.pipeline.test_driverfiles import IMAGES

    monkeypatch.setenv("POOLLEAK_CACHE", str(tmp_path / "cache"))
    files = sorted(IMAGES.glob("*.sys"))
    words = ("find", "Pipo", "Dupl", "Glob")
    first = ask(capsys, *words, *(word for path in files for word in ("--images", path)), "--jobs", "1")
    for seed, jobs in ((1, 1), (2, 3)):
        random.Random(seed).shuffle(files)
        assert ask(capsys, *words, *(word for path in files for word in ("--images", path)), "--jobs", jobs) == first
