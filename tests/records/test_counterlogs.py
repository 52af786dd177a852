"""Logs of performance counters: names in the languages of Windows, wide tables, binary logs, counters of other things."""

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
        "L\u00edmite de confirmaci\u00f3n",
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
        "Mem\u00f3ria",
        "Bytes de pool n\u00e3o pagin\u00e1vel",
        "Bytes de pool pagin\u00e1vel",
        "Limite de confirma\u00e7\u00e3o",
        "Bytes residentes em pool pagin\u00e1vel",
    ),
    "fr": (
        "M\u00e9moire",
        "Octets de r\u00e9serve non pagin\u00e9e",
        "Octets de r\u00e9serve pagin\u00e9e",
        "Limite de m\u00e9moire d\u00e9di\u00e9e",
        "Octets r\u00e9sidents de r\u00e9serve pagin\u00e9e",
    ),
    "ru": (
        "\u041f\u0430\u043c\u044f\u0442\u044c",
        "\u0411\u0430\u0439\u0442 \u0432 \u043d\u0435\u0432\u044b\u0433\u0440\u0443\u0436\u0430\u0435\u043c\u043e\u043c "
        "\u0441\u0442\u0440\u0430\u043d\u0438\u0447\u043d\u043e\u043c \u043f\u0443\u043b\u0435",
        "\u0411\u0430\u0439\u0442 \u0432 \u0432\u044b\u0433\u0440\u0443\u0436\u0430\u0435\u043c\u043e\u043c "
        "\u0441\u0442\u0440\u0430\u043d\u0438\u0447\u043d\u043e\u043c \u043f\u0443\u043b\u0435",
        "\u041f\u0440\u0435\u0434\u0435\u043b \u0432\u044b\u0434\u0435\u043b\u0435\u043d\u043d\u043e\u0439 "
        "\u0432\u0438\u0440\u0442\u0443\u0430\u043b\u044c\u043d\u043e\u0439 \u043f\u0430\u043c\u044f\u0442\u0438",
        "\u0420\u0435\u0437\u0438\u0434\u0435\u043d\u0442\u043d\u044b\u0445 \u0431\u0430\u0439\u0442 "
        "\u0432\u044b\u0433\u0440\u0443\u0436\u0430\u0435\u043c\u043e\u0433\u043e \u043f\u0443\u043b\u0430",
    ),
    "zh": (
        "\u5185\u5b58",
        "\u975e\u9875\u9762\u7f13\u51b2\u6c60\u5b57\u8282",
        "\u9875\u9762\u7f13\u51b2\u6c60\u5b57\u8282",
        "\u8ba4\u53ef\u9650\u5236",
        "\u9875\u9762\u7f13\u51b2\u6c60\u5e38\u9a7b\u5b57\u8282",
    ),
    "ja": (
        "\u30e1\u30e2\u30ea",
        "\u975e\u30da\u30fc\u30b8 \u30d7\u30fc\u30eb \u30d0\u30a4\u30c8\u6570",
        "\u30da\u30fc\u30b8 \u30d7\u30fc\u30eb \u30d0\u30a4\u30c8\u6570",
        "\u30b3\u30df\u30c3\u30c8\u5236\u9650",
        "\u30da\u30fc\u30b8 \u30d7\u30fc\u30eb\u5e38\u99d0\u30d0\u30a4\u30c8\u6570",
    ),
    "ko": (
        "\uba54\ubaa8\ub9ac",
        "\ube44\ud398\uc774\uc9d5 \ud480 \ubc14\uc774\ud2b8",
        "\ud398\uc774\uc9d5 \ud480 \ubc14\uc774\ud2b8",
        "\ucee4\ubc0b \uc81c\ud55c",
        "\ud398\uc774\uc9d5 \ud480 \uc0c1\uc8fc \ubc14\uc774\ud2b8",
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
