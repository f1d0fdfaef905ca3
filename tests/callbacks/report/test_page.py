import re
from html.parser import HTMLParser

import pytest

from callbacks.report.figures import lines_figure
from callbacks.report.page import Answer, Card, Example, Section, Table, write_page

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/a.png>"


class References(HTMLParser):
    """What a browser would fetch or run, and the ids it would find."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.tags, self.ids = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action") or "url(" in (value or ""):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on")


def written(tmp_path, **changed):
    figure = lines_figure({"a": ([0, 1], [1, 2]), "b": ([0, 1], [2, 1])}, "x", "y")
    example = Example([{"role": "user", "content": HOSTILE}], [Answer(HOSTILE, HOSTILE, "win"), Answer("b", "c")])
    section = Section(
        HOSTILE, f"one\n\n{HOSTILE}", [figure, figure], [Table([HOSTILE, "n"], [[HOSTILE, "1\n0 to 2"]])], [example]
    )
    settings = {"title": HOSTILE, "lead": HOSTILE, "cards": [Card(HOSTILE, "7\u00a0%", HOSTILE)], "sections": [section]}
    write_page(tmp_path / "report.html", **settings | {"config_yaml": f"a: {HOSTILE}"} | changed)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_or_run(tmp_path):
    page = written(tmp_path)
    found = References(page)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(found.tags)
    assert all(target.startswith(("#", "url(#", "clip-path: url(#")) for target in found.fetched)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "&lt;script&gt;alert" in page


def test_everything_given_is_on_the_page(tmp_path):
    page = written(tmp_path)
    assert page.count("<svg") == 2
    assert page.count("<p>") == 2
    assert "<td>1<small>0 to 2</small></td>" in page
    assert 'class="verdict win">win<' in page
    assert "<details>" in page


def test_ids_of_figures_stay_apart_and_are_found(tmp_path):
    page = written(tmp_path)
    ids = References(page).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_same_input_same_bytes(tmp_path):
    assert written(tmp_path) == written(tmp_path)


def test_what_is_empty_is_left_out(tmp_path):
    page = written(tmp_path, cards=[], sections=[], config_yaml="")
    assert not {"dl", "section", "details"} & set(References(page).tags)


def test_a_broken_character_does_not_cost_the_page(tmp_path):
    assert "a?b" in written(tmp_path, lead="a\ud800b")


def test_no_half_page_is_left(tmp_path):
    written(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(AttributeError):
        written(tmp_path, sections=["not a section"])
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
