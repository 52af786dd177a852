"""The same rows in every form that people paste give the same numbers in the same pools."""

from __future__ import annotations

import contextlib
import html
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import RecordFormatError
from pykdext.model import PoolKind
from pykdext.records import logs
from pykdext.records.logs import load_log, load_log_stream, load_newest
from pykdext.records.quantities import find_decimal_mark, parse_size

TITLES = ("Tag", "Paged Allocs", "Paged Frees", "Paged Bytes", "NonPaged Allocs", "NonPaged Frees", "NonPaged Bytes")

counts = st.integers(0, 10**9)
tags = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=4, max_size=4)


@st.composite
def tables(draw):
    """Rows of a tag and, for both pools, allocations, frees that are no more, and bytes."""
    rows = []
    for tag in draw(st.lists(tags, min_size=1, max_size=5, unique=True)):
        numbers = []
        for _ in range(2):
            allocs = draw(counts)
            numbers += [allocs, draw(st.integers(0, allocs)), draw(counts)]
        rows.append((tag, *numbers))
    return rows


def as_markdown(rows):
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (TITLES, ["---"] * len(TITLES), *rows)]
    return "\n".join(lines) + "\n"


def as_transposed(rows):
    turned = list(zip(TITLES, *[tuple(map(str, row)) for row in rows]))
    return "\n".join("| " + " | ".join(line) + " |" for line in turned) + "\n"


def as_html(rows):
    def line(cells):
        return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>\n"

    return f"<html><body><p>pools</p><table>{''.join(map(line, (TITLES, *rows)))}</table></body></html>"


def as_format_list(rows):
    width = max(map(len, TITLES))
    return (
        "\n\n".join("\n".join(f"{title:{width}} : {cell}" for title, cell in zip(TITLES, row)) for row in rows) + "\n"
    )


def as_json(rows):
    return json.dumps([dict(zip(TITLES, row)) for row in rows])


def as_nested_json(rows):
    names = ("allocs", "frees", "bytes")
    return json.dumps(
        {
            "host": "SRV",
            "rows": [
                {"tag": row[0], "paged": dict(zip(names, row[1:4])), "nonpaged": dict(zip(names, row[4:7]))}
                for row in rows
            ],
        }
    )


def as_csv(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in (TITLES, *rows))


def as_grouped_csv(rows):
    """As a German console groups thousands."""
    return "".join(
        ";".join(str(cell) if isinstance(cell, str) else f"{cell:,}".replace(",", ".") for cell in row) + "\n"
        for row in (TITLES, *rows)
    )


def as_wide_text(rows):
    return "".join("  ".join(f"{cell!s:>16}" for cell in row) + "\n" for row in (TITLES, *rows))


FORMS = [
    as_markdown,
    as_transposed,
    as_html,
    as_format_list,
    as_json,
    as_nested_json,
    as_csv,
    as_grouped_csv,
    as_wide_text,
]
WRAPPINGS = {
    "plain": lambda text: text.encode(),
    "quoted": lambda text: "".join(f"> {line}\n" for line in text.split("\n")).encode(),
    "quoted twice": lambda text: "".join(f">> {line}\n" for line in text.split("\n")).encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "non-breaking": lambda text: text.replace(" ", "\xa0").encode(),
}


def read(data):
    (state,) = load_log_stream("x", data)
    found = {}
    for row in state.tags:
        for pool in PoolKind:
            usage = row.usage(pool)
            found[row.tag.text, pool] = (usage.allocs, usage.frees, usage.outstanding, usage.bytes)
    return found


def expected(rows):
    found = {}
    for tag, *numbers in rows:
        for pool, (allocs, frees, used) in ((PoolKind.PAGED, numbers[:3]), (PoolKind.NONPAGED, numbers[3:])):
            found[tag, pool] = (allocs, frees, allocs - frees, used)
    return found


@pytest.mark.parametrize("form", FORMS)
@given(tables())
def test_every_form_reads_alike(form, rows):
    assert read(form(rows).encode()) == expected(rows)


@pytest.mark.parametrize("wrap", ["quoted", "quoted twice", "utf-16", "line ends"])
@pytest.mark.parametrize("form", [as_markdown, as_wide_text, as_csv])
@given(tables())
def test_what_mail_and_editors_do_changes_nothing(form, wrap, rows):
    assert read(WRAPPINGS[wrap](form(rows))) == expected(rows)


@given(tables())
def test_non_breaking_blanks_change_nothing(rows):
    assert read(WRAPPINGS["non-breaking"](as_wide_text(rows))) == expected(rows)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 9)), min_size=1, max_size=8))
def test_a_decimal_mark_holds_for_the_whole_column(numbers):
    """Read with the mark of their column, numbers mean the same with commas as with points."""

    def write(whole, tenth, group, point):
        return f"{whole:,}".replace(",", group) + f"{point}{tenth}"

    german = [write(*number, ".", ",") for number in numbers]
    english = [write(*number, ",", ".") for number in numbers]
    marks = find_decimal_mark(german), find_decimal_mark(english)
    assert marks == (",", ".")
    for (whole, tenth), one, other in zip(numbers, german, english):
        size = round((10 * whole + tenth) * (1 << 20) / 10)
        assert abs(parse_size(one, "mb", ",") - size) <= 1
        assert parse_size(one, "mb", ",") == parse_size(other, "mb", ".")


@given(st.text(max_size=300))
def test_no_text_breaks_any_reader(text):
    with contextlib.suppress(RecordFormatError):
        load_log_stream("x", text.encode("utf-8", "replace"))


@pytest.mark.parametrize("name", ["77-series-zh.txt", "31-irp.txt", "53-poolmonx.csv", "76-poolused-2-and-4.txt"])
def test_the_newest_snapshot_alone_is_the_last_of_all(monkeypatch, name):
    path = str(Path(__file__).parent / "cases" / name)
    monkeypatch.setattr(logs, "LONG_LOG_BYTES", 0)
    assert load_newest(path) == load_log(path)[-1]


def test_the_newest_of_a_csv_of_many_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LONG_LOG_BYTES", 0)
    path = tmp_path / "pools.csv"
    lines = [
        f"2026-06-{day:02} 08:00:00,{tag},{day * 10},{day},{day * 640}\n"
        for day in range(1, 9)
        for tag in ("Irp", "File")
    ]
    path.write_text("Time,Tag,NonPaged Allocs,NonPaged Frees,NonPaged Bytes\n" + "".join(lines))
    assert load_newest(str(path)) == load_log(str(path))[-1]
    assert len(load_log(str(path))) == 8


LISTED = [("Zxcv", 412000, 3000, 1_400_000_000), ("MmSt", 90000, 60000, 90_000_000), ("Ntfx", 80000, 79000, 4_000_000)]


@pytest.mark.parametrize("mark", ["{}. ", "{}) ", " - ", "* ", "\u2022 "])
def test_a_list_of_rows_is_a_table(mark):
    """Rows that somebody numbered, or put into a list, in the text of a mail."""
    rows = [
        f"{tag}  Nonp  {allocs} ( 0)  {frees} ( 0)  {allocs - frees}  {used} ( 0)"
        for tag, allocs, frees, used in LISTED
    ]
    text = "The largest:\n" + "".join(f"{mark.format(number)}{line}\n" for number, line in enumerate(rows, 1))
    (state,) = load_log_stream("x", text.encode())
    assert {row.tag.text: (row.nonpaged.allocs, row.nonpaged.bytes) for row in state.tags} == {
        tag: (allocs, used) for tag, allocs, _, used in LISTED
    }


def test_tags_that_look_like_marks_of_a_list_stay():
    lines = [
        f"{tag:4}  Nonp  9  1  8  {64 * number}  {8 * number}\n" for number, tag in enumerate(("-", "*", "1.", "2."), 1)
    ]
    (state,) = load_log_stream("x", ("Tag  Type  Allocs  Frees  Diff  Bytes  Per Alloc\n" + "".join(lines)).encode())
    assert sorted(row.tag.text.strip() for row in state.tags) == ["*", "-", "1.", "2."]


def test_portuguese_titles_with_blanks_in_the_pool():
    text = (
        "Marca   Tipo             Alocações  Liberações  Dif      Bytes\n"
        "Zxcv    Não paginável    412.000    3.000       409.000  1.400.000.000\n"
        "MmSt    Paginável        90.000     60.000      30.000   90.000.000\n"
    )
    (state,) = load_log_stream("x", text.encode())
    zxcv, mmst = sorted(state.tags, key=lambda row: row.tag.text, reverse=True)
    assert (zxcv.nonpaged.outstanding, zxcv.nonpaged.bytes) == (409_000, 1_400_000_000)
    assert (mmst.paged.outstanding, mmst.paged.bytes) == (30_000, 90_000_000)


def test_progress_before_the_sort_does_not_part_two_tables():
    head = "               NonPaged                  Paged\n Tag     Allocs         Used     Allocs         Used\n"
    text = (
        f"..... Sorting by NonPaged Pool Consumed\n\n{head} Zxcv    409000   1400000000          0            0\n\n"
        f"..\n. Sorting by Paged Pool Consumed\n\n{head} MmSt         0            0      30000     90000000\n"
    )
    (state,) = load_log_stream("x", text.encode())
    assert {row.tag.text for row in state.tags} == {"Zxcv", "MmSt"}


DEBUGGER_TITLES = (
    "               NonPaged                  Paged\n Tag     Allocs         Used     Allocs         Used\n"
)
BOTH = " Both       100        20000          7         7000\n"
BY_NONPAGED = f"{DEBUGGER_TITLES} Zxcv    409000   1400000000          0            0\n{BOTH}"
BY_PAGED = f"{DEBUGGER_TITLES} MmSt         0            0      30000     90000000\n{BOTH}"


@pytest.mark.parametrize(
    "text",
    [
        f"0: kd> !poolused 2\n{BY_NONPAGED}0: kd> !poolused 4\n{BY_PAGED}",
        f"!poolused 0x4\n...\n{BY_PAGED}\n!poolused 0x2\n{BY_NONPAGED}",
        f"lkd> !poolused /t50 3 \n{BY_NONPAGED}lkd> !poolused /t50 5\n{BY_PAGED}",
        f"lkd> !poolused 2\n{BY_NONPAGED}\n. Sorting by Paged Pool Consumed\n\n{BY_PAGED}",
        f"{BY_NONPAGED}\n{BY_PAGED}",
        f"by nonpaged\n{BY_NONPAGED}TOTAL    409100   1400020000          7         7000\n\n{BY_PAGED}",
    ],
)
def test_two_tables_sorted_in_two_ways_are_one_state_without_the_line_that_tells_the_sort(text):
    (state,) = load_log_stream("x", text.encode())
    assert {row.tag.text for row in state.tags} == {"Zxcv", "MmSt", "Both"}
    assert state.pool_bytes(PoolKind.NONPAGED) == 1_400_020_000
    assert state.pool_bytes(PoolKind.PAGED) == 90_007_000


@pytest.mark.parametrize(
    "text",
    [
        f"0: kd> !poolused 2\n{BY_NONPAGED}0: kd> !poolused 2\n{BY_NONPAGED}",
        f"0: kd> !poolused 2\n{BY_NONPAGED}0: kd> !poolused 4\n{BY_PAGED.replace(' 20000 ', ' 30000 ')}",
        f"{BY_NONPAGED}\n{BY_NONPAGED.replace('1400000000', '1500000000')}",
        f"0: kd> !poolused 2\n{BY_NONPAGED}0: kd> !poolused a\n{BY_PAGED}",
    ],
)
def test_tables_of_one_sort_or_that_differ_or_of_a_session_stay_two_states(text):
    assert len(load_log_stream("x", text.encode())) == 2
