"""Pages of HTML: what they say without JavaScript, and what a real browser makes of them."""

from __future__ import annotations

import dataclasses
import enum
import html.parser
import json
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone

import pytest

from dumps.forge import forge
from pykdext import pipeline
from pykdext.cli.main import main
from pykdext.growth import compare_snapshots
from pykdext.model import Origin, PoolTag
from pykdext.model.fleet import BatchSummary, DumpRow, DumpStatus
from pykdext.store.verdicts import parse_verdict
from tests.conftest import PROJECT

pytest.importorskip("jinja2", reason="jinja2 (extra html) is not installed")

LOGS = PROJECT / "dumps" / "samples" / "poolmon"
BEFORE, AFTER = LOGS / "poolmon-2024-11-10_1600.txt", LOGS / "poolmon-2024-11-12_0300.txt"
ORIGIN = Origin("poolleak --format html", "0.0", datetime(2024, 11, 12, tzinfo=timezone.utc))
PAGES = ("report", "quiet", "diff", "trend", "batch", "summary")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pages that the tests look at, made by the command line."""
    folder = tmp_path_factory.mktemp("pages")
    forge("twins", build=19041, pool_totals=True).save(folder / "twins.dmp")
    forge("quiet", build=19041).save(folder / "quiet.dmp")
    forge("pipo", build=19041).save(folder / "small.dmp", kind=4)
    dumps = [folder / name for name in ("twins.dmp", "quiet.dmp", "small.dmp")]
    for name, words in (
        ("report", [dumps[0]]),
        ("quiet", [dumps[1]]),
        ("diff", ["diff", BEFORE, AFTER]),
        ("trend", ["trend", LOGS]),
        ("batch", ["batch", *dumps, "--jobs", "1"]),
        ("summary", [dumps[2]]),
    ):
        main([str(word) for word in (*words, "--format", "html", "-o", folder / f"{name}.html")])
    return folder


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page of a browser that notes what should not happen: requests, dialogs, errors."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1180, "height": 900}, **options})
        self.page = self.context.new_page()
        self.requests, self.refused, self.faults = [], [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.refused.append((request.url, request.failure)))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))

    def open(self, path):
        self.page.goto(path.as_uri())
        return self.page


@pytest.fixture
def tab(chromium):
    tabs = []

    def open_tab(path, **options):
        tabs.append(Tab(chromium, **options))
        tabs[-1].open(path)
        return tabs[-1]

    yield open_tab
    for opened in tabs:
        opened.context.close()


class Reader(html.parser.HTMLParser):
    """The text of a page outside of its scripts, its tables as rows of texts, and its elements."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.tables, self.heading, self._path = [], [], "", []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "link", "img"):
            self._path.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._path.pop() == tag, f"{tag} is closed in {self._path}"

    def handle_data(self, data):
        if {"script", "style"} & set(self._path):
            return
        self.text += data
        if "h1" in self._path:
            self.heading += data
        if {"td", "th"} & set(self._path):
            self.tables[-1][-1][-1] += data


def read(folder, name):
    return Reader((folder / f"{name}.html").read_text(encoding="utf-8"))


def words_of(text):
    return " ".join(text.split())


def test_the_verdict_and_the_tables_need_no_script(folder, capsys):
    main([str(folder / "twins.dmp"), "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    page = read(folder, "report")
    assert page.heading == report["verdict"]
    pools, suspects, *others, tags = page.tables
    groups, (largest, *evidence) = others[: len(report["groups"])], others[len(report["groups"]) :]
    assert [len(group) - 1 for group in groups] == [len(group["members"]) for group in report["groups"]]
    assert [row[0] for row in largest[1:]] == [item["tag"] for item in report["largest"]]
    assert [row[0] for row in pools[1:]] == ["Nonp", "Paged"]
    assert [words_of(row[-1]) for row in suspects[1:]] == [
        suspect["owners"][0]["module"] for suspect in report["suspects"]
    ]
    owners = [owner for suspect in report["suspects"] for owner in suspect["owners"]]
    assert [len(table) - 1 for table in evidence] == [len(owner["evidence"]) for owner in owners]
    for table, owner in zip(evidence, owners):
        for row, item in zip(table[1:], owner["evidence"]):
            assert row[0] == item["confidence"] and item["detail"] in row[4]
            assert row[2] == ("" if item["rva"] is None else f"{owner['module'][:-4]}+0x{item['rva']:x}")
            assert bool(row[3]) == (item["rva"] is not None)
    for owner in owners:
        version = owner["version"]
        for words in (f"{version['timestamp']:08x}", f"{version['checksum']:08x}", version["pdb_guid"]):
            assert words in page.text
    for step in report["next_steps"]:
        assert step["why"] in page.text and (step["command"] or "") in page.text
    assert len(tags) > 150


def test_cells_hold_the_exact_numbers(folder, capsys):
    main(["used", str(folder / "twins.dmp"), "--format", "json"])
    tags = {row["tag"]: row for row in json.loads(capsys.readouterr().out)["tags"]}
    source = (folder / "report.html").read_text(encoding="utf-8").partition("<details>")[2]
    rows = re.findall(r'<tr><th scope="row"[^>]*>([^<]+)</th>\s*<td>(\w+)</td>(.*?)</tr>', source, re.DOTALL)
    assert len(rows) > 150
    for tag, label, cells in rows:
        usage = tags[html.unescape(tag)]["nonpaged" if label == "Nonp" else "paged"]
        values = [int(value) for value in re.findall(r'data-value="(\d+)"', cells)[:4]]
        assert values == [usage[name] for name in ("allocs", "frees", "outstanding", "bytes")]


def test_the_series_and_the_difference_say_what_the_text_says(folder, capsys):
    main(["trend", str(LOGS)])
    text = words_of(capsys.readouterr().out)
    trend = read(folder, "trend")
    assert trend.heading in text and trend.heading.startswith("Tag Pipo")
    assert len(trend.tables[-1]) == 1 + 9
    diff = read(folder, "diff")
    assert diff.heading.startswith("Tag Pipo of the nonpaged pool grew most: by 262 MB in 1 d 11 h, 7.50 MB an hour.")
    assert diff.tables[1][1][:6] == ["Pipo", "Nonp", "+638,050", "+1,001", "+637,049", "+275,205,168"]


def test_a_batch_and_a_dump_without_tables(folder):
    batch = read(folder, "batch")
    assert batch.heading.startswith("Tag Dupl of the nonpaged pool")
    dumps = batch.tables[-1][1:]
    assert [words_of(row[2]) for row in dumps] == ["done", "done", "unusable"]
    assert "memory dump holds no pool tag tables" in words_of(dumps[2][-1])
    summary = read(folder, "summary")
    assert summary.heading.startswith("No verdict: ")
    assert any("ntoskrnl.exe" in row for row in summary.tables[0])


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_well_formed_and_accessible(folder, name):
    page = read(folder, name)
    attributes = [attrs for _, attrs in page.elements]
    assert page.elements[0] == ("html", {"lang": "en"})
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")
    assert all(attrs.get("aria-label") for attrs in attributes if attrs.get("role") == "img")
    assert not [attrs for attrs in attributes if "src" in attrs or "href" in attrs]
    assert not [key for attrs in attributes for key in attrs if key.startswith("on")]
    assert "poolleak" in page.text.rpartition("Made by")[2]
    identifiers = [attrs["id"] for attrs in attributes if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize(
    ("name", "bars", "curves"), [("report", 18, 0), ("diff", 17, 0), ("trend", 9, 1), ("batch", 2, 0)]
)
def test_charts_are_drawn_without_scripts_and_nothing_is_fetched(folder, tab, name, bars, curves):
    opened = tab(folder / f"{name}.html", java_script_enabled=False)
    assert opened.page.locator(".bars li").count() == bars
    assert opened.page.locator(".plot .curve").count() == curves
    assert all(box["width"] > 300 for box in (plot.bounding_box() for plot in opened.page.locator(".plot").all()))
    assert opened.requests == [(folder / f"{name}.html").as_uri()]
    assert opened.faults == []
    assert (folder / f"{name}.html").stat().st_size < 120_000


def test_bars_are_as_long_as_what_they_show(folder, tab):
    page = tab(folder / "report.html").page
    paged = page.locator(".bars").nth(1)
    widths = paged.locator("rect").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    words = paged.locator(".number").all_text_contents()
    sizes = [float(text.split()[0]) for text in words]
    assert {text.split()[1] for text in words} == {"MB"} and len(sizes) == 9
    assert all(abs(width / widths[0] - size / sizes[0]) < 0.02 for width, size in zip(widths, sizes))


def test_verdicts_have_the_colour_of_what_they_say(folder):
    tones = {
        name: re.search(r'class="verdict (\w+)"', (folder / f"{name}.html").read_text("utf-8"))[1] for name in PAGES
    }
    assert tones == {
        "report": "alarming",
        "quiet": "calm",
        "diff": "alarming",
        "trend": "alarming",
        "batch": "alarming",
        "summary": "open",
    }


def column(page, table, index):
    return page.eval_on_selector_all(
        f"{table} tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{index}].textContent)"
    )


def test_titles_sort_and_say_so(folder, tab):
    page = tab(folder / "report.html").page
    page.locator("details summary").click()
    table = "details table"
    by_bytes = [int(text.replace(",", "")) for text in column(page, table, 5)]
    assert by_bytes == sorted(by_bytes, reverse=True)
    title = page.locator(f"{table} thead th").nth(2)
    title.locator("button").click()
    assert title.get_attribute("aria-sort") == "descending"
    allocs = [int(text.replace(",", "")) for text in column(page, table, 2)]
    assert allocs == sorted(allocs, reverse=True) and allocs[0] > allocs[-1]
    title.locator("button").press("Enter")
    assert title.get_attribute("aria-sort") == "ascending"
    assert [int(text.replace(",", "")) for text in column(page, table, 2)] == sorted(allocs)
    page.locator(f"{table} thead th button").first.click()
    tags = [text.strip().lower() for text in column(page, table, 0)]
    assert tags == sorted(tags) and title.get_attribute("aria-sort") is None


def test_what_is_not_known_is_sorted_last(folder, tab):
    page = tab(folder / "trend.html").page
    page.locator("details summary").click()
    button = page.locator("details thead button").nth(3)
    for _ in range(2):
        button.click()
        rates = column(page, "details table", 3)
        assert rates[0] != "-" and rates[-1] == "-"


def test_the_filter_hides_rows_and_counts(folder, tab):
    page = tab(folder / "report.html").page
    page.locator("details summary").click()
    page.locator("details input").fill("dupl")
    assert column(page, "details table", 0) == ["Dupl"]
    assert re.fullmatch(r" 1 of \d+ rows", page.locator("details output").text_content())
    page.locator("details input").fill("")
    assert len(column(page, "details table", 0)) > 150


def test_without_javascript_the_page_reads_on(folder, tab):
    page = tab(folder / "trend.html", java_script_enabled=False).page
    assert page.locator("h1").is_visible() and page.locator("table").first.is_visible()
    assert page.locator(".plot .curve").is_visible() and page.locator(".bars").first.is_visible()
    page.locator("details summary").click()
    assert page.locator("details table").is_visible() and page.locator("button").count() == 0


CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = {};
  for (const element of document.querySelectorAll("main *, footer *")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.getClientRects().length || element.closest("title")) continue;
    let ground = element;
    while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const style = getComputedStyle(element);
    const ink = light(parse(element.closest("svg") ? style.fill : style.color));
    const paper = light(parse(getComputedStyle(ground || document.body).backgroundColor));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const name = element.tagName + "." + (element.className.baseVal ?? element.className);
    found[name] = Math.min(found[name] ?? 99, ratio);
  }
  return found;
}"""


@pytest.mark.parametrize("name", PAGES)
def test_pages_suit_light_and_dark_wide_and_narrow(folder, tab, name):
    page = tab(folder / f"{name}.html").page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 8
        assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}, scheme
    for width in (1180, 390):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_has_the_verdict_the_tables_and_the_charts(folder, tab, tmp_path):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler-utils) is not installed")
    opened = tab(folder / "report.html", color_scheme="dark")
    path = tmp_path / "page.pdf"
    opened.page.pdf(path=str(path), format="A4", print_background=False)
    text = words_of(subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True).stdout)
    page = read(folder, "report")
    assert page.heading in text
    for row in page.tables[1]:
        assert all(words_of(cell) in text for cell in row)
    assert text.count("the memory manager's count") == 2
    assert "all others" in text and "All tags in use" not in text
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028{{7*7}}%{y}$x$<b>\u202e\ud800"
SHOWN = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\\u2028{{7*7}}%{y}$x$<b>\\u202e\\ud800"


def poison(value):
    """The value with hostile text in place of every text, and a hostile tag in place of every tag."""
    if isinstance(value, PoolTag):
        return PoolTag(b"<b>\x01")
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, (tuple, list)):
        return type(value)(poison(part) for part in value)
    if isinstance(value, dict):
        return {key: poison(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, enum.Enum):
        return dataclasses.replace(
            value, **{field.name: poison(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value


@pytest.fixture(scope="module")
def hostile(folder):
    from pykdext.report import html as pages
    from pykdext.report.jsondoc import render_report_json

    lists = pipeline.TagLists.load()
    with pipeline.open_source(str(folder / "twins.dmp")) as source:
        report = pipeline.analyze(source, lists)
    sides = compare_snapshots(*pipeline.load_sides(str(BEFORE), str(AFTER)))
    series = pipeline.follow_files([str(LOGS)], lists).report
    concluded = poison(pipeline.conclude_diff(sides, sides.deltas, lists))
    followed = poison(pipeline.conclude_series(series, lists))
    with pytest.raises(pipeline.NoTagTablesError) as caught, pipeline.open_source(str(folder / "small.dmp")) as source:
        pipeline.analyze(source, lists)
    row = DumpRow("x.dmp", "host", DumpStatus.DONE, None, parse_verdict(json.loads(render_report_json(report))))
    failed = DumpRow("x.dmp", "host", DumpStatus.CRASHED, "error")
    batch = BatchSummary(2, 0, {DumpStatus.DONE: 2}, 1, 1.0, 0, 0, (), ("a warning",))
    origin = poison(ORIGIN)
    made = {
        "report": pages.render_report_page(poison(report), origin),
        "diff": pages.render_diff_page(poison(sides), poison(sides.deltas), concluded, origin),
        "trend": pages.render_trend_page(poison(series), followed, {PoolTag(b"<b>\x01"): HOSTILE}, origin),
        "summary": pages.render_summary_page(poison(caught.value.summary), origin),
        "batch": "".join(pages.iter_batch_page(poison(batch), [poison_row(row), poison(failed)], origin)),
    }
    for name, text in made.items():
        (folder / f"hostile-{name}.html").write_text(text, encoding="utf-8")
    return folder


def poison_row(row):
    return dataclasses.replace(row, path=HOSTILE, host=HOSTILE, verdict=poison(row.verdict))


@pytest.mark.parametrize("name", ["report", "diff", "trend", "summary", "batch"])
def test_hostile_text_stays_text(hostile, tab, name):
    opened = tab(hostile / f"hostile-{name}.html")
    page = opened.page
    page.wait_for_timeout(200)
    assert opened.faults == []
    assert opened.requests == [(hostile / f"hostile-{name}.html").as_uri()]
    assert page.locator("img").count() == 0
    assert page.locator("main b, main script").count() == 0
    assert SHOWN in page.locator("main").text_content()
    assert SHOWN in page.locator("footer").text_content()
    assert page.locator("script").count() == 1
    if name in ("report", "diff", "trend"):
        assert "<b>\\x01" in " ".join(page.locator("figure .tag").all_text_contents())


def test_the_policy_of_the_page_stops_foreign_scripts_and_requests(folder, tab):
    opened = tab(folder / "quiet.html")
    opened.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken'";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "http://127.0.0.1:9/x.png";
          document.body.append(image);
        }"""
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.title() != "taken"
    assert opened.refused == [("http://127.0.0.1:9/x.png", "csp")]
    assert len(opened.faults) >= 2 and all("Content Security Policy" in fault for fault in opened.faults)


def test_a_missing_library_gets_one_line(folder, monkeypatch, capsys):
    monkeypatch.setattr("pykdext.cli.origin.find_spec", lambda name: None)
    assert main([str(folder / "quiet.dmp"), "--format", "html", "-o", "x.html"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert f'{sys.executable} -m pip install "pykdext[html]"' in captured.err and "jinja2" in captured.err


def test_a_terminal_gets_no_page_but_a_pipe_does(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main([str(folder / "quiet.dmp"), "--format", "html"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "-o report.html" in captured.err
    command = [sys.executable, "-m", "pykdext", str(folder / "quiet.dmp"), "--format", "html"]
    piped = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout
    assert piped.startswith(b"<!DOCTYPE html>") and piped.rstrip().endswith(b"</html>")


def test_text_and_json_import_nothing_of_pages(folder):
    code = (
        "import sys, pykdext.cli.main\n"
        f"pykdext.cli.main.main([{str(folder / 'quiet.dmp')!r}, '--format', 'json', "
        f"'-o', {str(folder / 'x.json')!r}])\n"
        "heavy = {'jinja2', 'pykdext.report.html'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
