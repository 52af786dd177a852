"""Every JSON document against its JSON Schema, over all scenarios; and the schemas against what is wrong."""

from __future__ import annotations

import json

import pytest

from dumps.forge import SCENARIOS, forge
from pykdext.cli.main import main
from tests.conftest import PROJECT

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema (extra test) is not installed")

LOGS = PROJECT / "dumps" / "samples" / "poolmon"
DOCUMENTS = (
    *("batch", "blocks", "diff", "explanation", "history", "holders", "memory"),
    *("owners", "processes", "report", "snapshot", "summary", "trend"),
)
CALM_POOLS = ("quiet", "handles", "zombies", "keys")
"""Scenarios in which no tag is large: what leaks there stands in other tables of the kernel."""


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dumps")
    for scenario in SCENARIOS:
        forge(scenario, build=19041, pool_totals=True, healthy_share=32).save(folder / f"{scenario}.dmp")
    forge("pipo", build=2600, arch="x86").save(folder / "old.dmp")
    forge("pipo", build=19041).save(folder / "small.dmp", kind=4)
    return folder


@pytest.fixture
def run(capsys):
    def answer(*words):
        main([str(word) for word in words])
        return capsys.readouterr().out

    return answer


@pytest.fixture
def schema_of(run):
    return lambda name: json.loads(run("schema", name))


def errors_of(document, schema):
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


@pytest.fixture
def check(run, schema_of):
    def check_answer(*words):
        document = json.loads(run(*words, "--format", "json"))
        assert errors_of(document, schema_of(document["schema"])) == []
        return document

    return check_answer


@pytest.mark.parametrize("name", [*SCENARIOS, "old"])
def test_the_verdict_on_every_scenario(check, dumps, name):
    document = check(dumps / f"{name}.dmp")
    assert document["schema"] == "poolleak.report/1"
    assert bool(document["suspects"]) == (name not in CALM_POOLS)


def test_a_dump_without_tag_tables(check, dumps):
    assert check(dumps / "small.dmp")["schema"] == "poolleak.summary/1"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["used", "{dumps}/twins.dmp"], "snapshot"),
        (["find", "Pipo", "Toke", "Zz\\x01", "{dumps}/pipo.dmp"], "owners"),
        (["find", "Pipo", "Zz\\\\z", "--explain"], "explanation"),
        (["holders", "Even", "{dumps}/handles.dmp"], "holders"),
        (["holders", "Proc", "{dumps}/zombies.dmp"], "holders"),
        (["holders", "Key", "{dumps}/keys.dmp"], "holders"),
        (["holders", "Toke", "{dumps}/references.dmp"], "holders"),
        (["holders", "Lkas", "{dumps}/lookaside.dmp"], "holders"),
        (["holders", "VfLk", "{dumps}/verifier.dmp"], "holders"),
        (["processes", "{dumps}/zombies.dmp", "--sort", "zombies"], "processes"),
        (["blocks", "Pgla", "{dumps}/paged.dmp"], "blocks"),
        (["blocks", "Pipo", "{dumps}/pipo.dmp"], "blocks"),
        (["diff", "{dumps}/quiet.dmp", "{dumps}/pipo.dmp"], "diff"),
        (["trend", LOGS], "trend"),
        (["trend", f"{LOGS}/poolmon-2024-11-10_1600.txt"], "trend"),
        (["analyze", f"{LOGS}/poolmon-2024-11-10_1600.txt"], "report"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_other_commands_answer(check, dumps, words, name):
    assert check(*(str(word).format(dumps=dumps) for word in words))["schema"] == f"poolleak.{name}/1"


def test_redacted_documents_keep_their_schema(check, dumps):
    assert check(dumps / "pipo.dmp", "--redact")["subject"]["source"]["path"] == "path-1"


def test_a_batch_and_its_history(check, dumps, tmp_path):
    store = tmp_path / "store.sqlite"
    paths = [dumps / name for name in ("pipo.dmp", "quiet.dmp", "small.dmp")]
    document = check("batch", *paths, "--store", store, "--jobs", 1)
    assert [row["status"] for row in document["dumps"]] == ["done", "done", "unusable"]
    assert check("history", "--store", store)["lines"]


def test_every_answer_has_its_sentence(schema_of):
    """The rows of ``used`` and a kept ``snapshot`` are a state, of which nothing is judged."""
    for name in DOCUMENTS:
        assert ("verdict" in schema_of(f"{name}/1")["required"]) == (name != "snapshot"), name


def test_a_kept_snapshot(run, schema_of, dumps, tmp_path):
    path = tmp_path / "state.json"
    run("snapshot", dumps / "toke.dmp", "-o", path)
    assert errors_of(json.loads(path.read_text()), schema_of("snapshot/1")) == []


def test_all_schemas_are_listed_and_are_schemas(run, schema_of):
    assert run("schema").split() == [f"{name}/1" for name in DOCUMENTS]
    for name in DOCUMENTS:
        schema = schema_of(f"{name}/1")
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema == schema_of(f"poolleak.{name}/1")


def test_a_schema_of_nothing_gets_one_line(capsys):
    assert main(["schema", "verdict/9"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "report/1" in captured.err


def _objects_of(schema):
    """Every part of a schema that describes an object."""
    if isinstance(schema, dict):
        if "properties" in schema and "const" not in schema:
            yield schema
        for part in schema.values():
            yield from _objects_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _objects_of(part)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_schema_lets_pass_what_it_does_not_name(schema_of, name):
    found = list(_objects_of(schema_of(f"{name}/1")))
    assert found
    for part in found:
        assert part["additionalProperties"] is False
        assert sorted(part["required"]) == sorted(part["properties"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda report: report.pop("verdict"),
        lambda report: report.update(surprise=1),
        lambda report: report["suspects"][0].update(bytes="1.94 GB"),
        lambda report: report["suspects"][0].update(bytes=-1),
        lambda report: report["suspects"][0].update(tag="Pip"),
        lambda report: report["suspects"][0].update(hex="5069706F"),
        lambda report: report["suspects"][0].update(role="guilty"),
        lambda report: report["suspects"][0]["owners"][0].update(confidence="sure"),
        lambda report: report["suspects"][0]["owners"][0]["evidence"][0].pop("rva"),
        lambda report: report["subject"]["os"].update(arch="ia64"),
        lambda report: report["pools"].pop("paged"),
        lambda report: report["coverage"].update(expansion_table="maybe"),
        lambda report: report.update(warnings=None),
    ],
)
def test_a_spoiled_report_is_refused(check, schema_of, dumps, spoil):
    report = check(dumps / "pipo.dmp")
    spoil(report)
    assert errors_of(report, schema_of("report/1"))


def test_a_batch_refuses_a_spoiled_report_in_it(check, schema_of, dumps):
    document = check("batch", dumps / "pipo.dmp", "--jobs", 1)
    del document["dumps"][0]["report"]["verdict"]
    assert errors_of(document, schema_of("batch/1"))
