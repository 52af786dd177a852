from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given

from pykdext.errors import RecordFormatError
from pykdext.model import PoolKind
from pykdext.records.snapshotfile import is_snapshot_head, load_snapshot, parse_snapshot_document, render_snapshot_json
from pykdext.wholefile import write_whole
from tests.helpers.builders import row, snapshot, snapshots, usage


@given(snapshots)
def test_what_is_written_reads_back(state):
    assert parse_snapshot_document(json.loads(render_snapshot_json(state)), "x.json") == state


@given(snapshots)
def test_the_file_has_the_agreed_shape(state):
    text = render_snapshot_json(state)
    document = json.loads(text)
    assert text.isascii()
    assert document["schema"] == "poolleak.snapshot/1"
    assert document["totals"]["nonpaged_bytes"] == state.total_bytes(PoolKind.NONPAGED)
    assert [entry["hex"] for entry in document["tags"]] == [one.tag.raw.hex() for one in state.tags]
    assert is_snapshot_head(text.encode()[:4096])


def saved(tmp_path, data, name="state.json"):
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def test_plain_and_compressed_files_are_the_same(tmp_path):
    state = snapshot(row("Pipo", usage(10, 2, 640)))
    data = render_snapshot_json(state).encode()
    assert load_snapshot(saved(tmp_path, data)) == state
    packed = gzip.compress(data)
    assert load_snapshot(saved(tmp_path, packed, "state")) == state
    assert is_snapshot_head(packed[:4096])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "no JSON"),
        (lambda data: data.replace(b"snapshot/1", b"snapshot/9"), "schema 'poolleak.snapshot/9'"),
        (lambda data: b"[]", "schema None"),
        (lambda data: data.replace(b'"allocs": 10', b'"allocs": "10"'), "expected a whole number"),
        (lambda data: data.replace(b'"allocs": 10', b'"allocs": true'), "expected a whole number"),
        (lambda data: data.replace(b'"hex": "5069706f"', b'"hex": "50"'), "4 bytes"),
        (lambda data: data.replace(b'"coverage"', b'"cover"'), "coverage"),
        (lambda data: b"\x1f\x8b" + data, "damaged gzip"),
        (lambda data: gzip.compress(data)[:-20], "damaged gzip"),
        (lambda data: b"[" * 100000, "no JSON"),
        (lambda data: b"", "no JSON"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, damage, words):
    data = render_snapshot_json(snapshot(row("Pipo", usage(10, 2, 640)))).encode()
    with pytest.raises(RecordFormatError, match=words) as caught:
        load_snapshot(saved(tmp_path, damage(data)))
    assert "state.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_bytes(b"older")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(str(path), b"newer")
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
