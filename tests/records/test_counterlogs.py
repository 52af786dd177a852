"""Logs of performance counters: names in the languages of Windows, wide tables, binary logs, other counters."""

from __future__ import annotations

import pytest

from pykdext.errors import PykdextError, RecordFormatError
from pykdext.pipeline.sources import open_source
from pykdext.records.logs import load_log

# Object, nonpaged pool, paged pool, commit limit, and a neighbour that is none of them.
NAMES = {
    "en": ("Memory", "Pool Nonpaged Bytes", "Pool Paged Bytes", "Commit Limit", "Pool Paged Resident Bytes"),
    "de": (
        "Arbeitsspeicher",
        "Nicht-Auslagerungsseiten (Bytes)",
        "Auslagerungsseiten (Bytes)",
        "Zusagegrenze",
        "Auslagerungsseiten: Residente Bytes",
    ),
    "es": (
        "Memoria",
        "Bytes de bloque no paginado",
        "Bytes de bloque paginado",
        "Límite de confirmación",
        "Bytes residentes en bloque paginado",
    ),
    "it": (
        "Memoria",
        "Byte del pool non di paging",
        "Byte del pool di paging",
        "Limite memoria vincolata",
        "Byte residenti nel pool di paging",
    ),
    "pt": (
        "Memória",
        "Bytes de pool não paginável",
        "Bytes de pool paginável",
        "Limite de confirmação",
        "Bytes residentes em pool paginável",
    ),
    "fr": (
        "Mémoire",
        "Octets de réserve non paginée",
        "Octets de réserve paginée",
        "Limite de mémoire dédiée",
        "Octets résidents de réserve paginée",
    ),
    "ru": (
        "Память",
        "Байт в невыгружаемом страничном пуле",
        "Байт в выгружаемом страничном пуле",
        "Предел выделенной виртуальной памяти",
        "Резидентных байт выгружаемого пула",
    ),
    "zh": (
        "内存",
        "非页面缓冲池字节",
        "页面缓冲池字节",
        "认可限制",
        "页面缓冲池常驻字节",
    ),
    "ja": (
        "メモリ",
        "非ページ プール バイト数",
        "ページ プール バイト数",
        "コミット制限",
        "ページ プール常駐バイト数",
    ),
    "ko": (
        "메모리",
        "비페이징 풀 바이트",
        "페이징 풀 바이트",
        "커밋 제한",
        "페이징 풀 상주 바이트",
    ),
}


def counter_log(names, rows, delimiter=",", kind="CSV"):
    titles = delimiter.join(f'"{name}"' for name in (f"(PDH-{kind} 4.0) (Some Zone)(-60)", *names))
    lines = [
        delimiter.join(f'"{cell}"' for cell in (f"06/12/2026 {8 + number:02}:00:00.123", *cells))
        for number, cells in enumerate(rows)
    ]
    return "\n".join([titles, *lines, ""])


@pytest.mark.parametrize("language", NAMES)
def test_counters_in_the_languages_of_windows(language, tmp_path):
    group, nonpaged, paged, limit, neighbour = NAMES[language]
    names = [f"\\\\SRV01\\{group}\\{name}" for name in (neighbour, paged, nonpaged, limit)]
    path = tmp_path / "log.csv"
    path.write_text(counter_log(names, [("7", "2000000", "3000000.000000", "9000000")] * 2), encoding="utf-8")
    memories = [snapshot.memory for snapshot in load_log(str(path))]
    assert [(item.nonpaged_bytes, item.paged_bytes, item.commit_limit_bytes) for item in memories] == [
        (3_000_000, 2_000_000, 9_000_000)
    ] * 2


def test_pools_among_thousands_of_counters(tmp_path):
    others = [f"\\\\SRV01\\Process(app#{number})\\Pool Nonpaged Bytes" for number in range(5_000)]
    names = [*others, "\\\\SRV01\\Memory\\Pool Nonpaged Bytes"]
    path = tmp_path / "wide.tsv"
    path.write_text(counter_log(names, [[*["1"] * 5_000, str(total)] for total in (4000, 5000)], "\t", "TSV"))
    assert [snapshot.memory.nonpaged_bytes for snapshot in load_log(str(path))] == [4000, 5000]


def test_counters_of_other_things_say_what_is_missing(tmp_path):
    path = tmp_path / "cpu.csv"
    path.write_text(counter_log(["\\\\SRV01\\Processor(_Total)\\% Processor Time"], [("3.5",)]))
    with pytest.raises(RecordFormatError, match=r"none of the pools \(first: .*expected \\Memory\\Pool Nonpaged Bytes"):
        load_log(str(path))


@pytest.mark.parametrize(("suffix", "hint"), [(".blg", "relog FILE.blg -f csv"), (".ETL", "xperf -i FILE.etl")])
def test_binary_logs_are_refused_with_what_makes_them_text(suffix, hint, tmp_path):
    path = tmp_path / f"pool{suffix}"
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(PykdextError, match=hint), open_source(str(path)):
        pass


HEADER = r'"(PDH-CSV 4.0) (UTC)(0)","\\SRV\Memory\Pool Nonpaged Bytes","\\SRV\Memory\Available MBytes"'


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("123456789.123", "123456790.500"), (123456789, 123456790)),
        (("123456789,123", "987,654"), (123456789, 988)),
        (("123456789.123", "987.654"), (123456789, 988)),
        (("123456789", "987.654"), (123456789, 988)),
        (("123456789", "987,654"), (123456789, 988)),
        (("123,456,789", "987,654"), (123456789, 987654)),
        (("123.456.789", "987.654"), (123456789, 987654)),
        (("123,456,789.123", "987,654.321"), (123456789, 987654)),
        (("123.456.789,123", "987.654,321"), (123456789, 987654)),
        (("987,654", "123,456"), (987654, 123456)),
        (("987.654", "123.456"), (987654, 123456)),
    ],
)
def test_a_column_of_counters_tells_as_a_whole_whether_three_digits_are_decimals(tmp_path, texts, expected):
    rows = [f'"09/25/2026 10:0{number}:00.000","{text}","4096"' for number, text in enumerate(texts)]
    path = tmp_path / "pool.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    assert tuple(snapshot.memory.nonpaged_bytes for snapshot in load_log(str(path))) == expected


@pytest.mark.parametrize("mark", [".", ","])
def test_a_listing_of_counters_with_three_decimals_is_read_and_nothing_counts_as_zero(tmp_path, mark):
    samples = "\n".join(
        f"9/25/2026 10:0{number}:00 AM      \\\\srv\\memory\\pool nonpaged bytes :\n"
        f"                          {value}\n\n"
        f"                          \\\\srv\\memory\\pool paged bytes :\n"
        f"                          987{mark}654\n"
        for number, value in enumerate((f"123456789{mark}123", f"98765{mark}432"))
    )
    path = tmp_path / "counters.txt"
    path.write_text(f"Timestamp                 CounterSamples\n---------                 --------------\n{samples}")
    found = [(snapshot.memory.nonpaged_bytes, snapshot.memory.paged_bytes) for snapshot in load_log(str(path))]
    assert found == [(123456789, 988), (98765, 988)]


def test_people_group_digits_here_and_not_there(tmp_path):
    path = tmp_path / "notes.md"
    rows = "| 2026-09-25 10:00 | 1020 |\n| 2026-09-25 11:00 | 1,030 |\n"
    path.write_text(f"| Time | Nonpaged pool (MB) |\n|---|---|\n{rows}")
    assert [snapshot.memory.nonpaged_bytes >> 20 for snapshot in load_log(str(path))] == [1020, 1030]
