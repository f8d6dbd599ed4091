"""The page: it says what was found, asks nothing of anybody, and lets no text out of its place."""

import re
from html.parser import HTMLParser

import msgspec
import pytest

from millirec.data.lineage import Step
from millirec.frontier.choice import Choice, Miss
from millirec.frontier.config import Limits, Measure
from millirec.frontier.drawing import COLOURS, PLOTS, SYMBOLS, colour, plot, said, symbol
from millirec.frontier.host import Host
from millirec.frontier.quality import Contrast, Quality
from millirec.frontier.report import page
from millirec.frontier.result import Entry, Figures, Frontier
from millirec.frontier.search import Searched, Trial
from millirec.frontier.speed import Speed, Spread
from millirec.metrics.summary import Figure

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="x()">&\''


def figures(name: str, ndcg: float, p99: float, size: int) -> Figures:
    same = Contrast(difference=0.01, low=0.0, high=0.02, p_value=0.5)
    around = Figure(ndcg, ndcg - 0.01, ndcg + 0.01)
    one = Spread(median=p99, low=p99 / 2, high=2 * p99, mad=0.1)
    quality = Quality(
        figures={"ndcg@10": around, "recall@10": around, "coverage@10": around},
        to_teacher={"ndcg@10": same, "recall@10": same, "coverage@10": same},
        kept=around, n_targets=5, n_users=5,
    )  # fmt: skip
    speed = Speed(
        requests_per_second=one, p50_ms=one, p90_ms=one, p99_ms=one, cpu_seconds=one, memory_mb=one, start_seconds=one,
        stages={"encode": (1.0, 2.0, 3.0)}, errors={}, noisy=(),
    )  # fmt: skip
    return Figures(
        name=name, content_hash="c" * 64, model={"kind": "sasrec"}, quality=quality, speed=speed, bundle_bytes=size,
        lineage=(Step(name="train", settings={"epochs": 3, "note": HOSTILE}, seconds=2.0),),
        training_seconds=2.0, compression_seconds=0.5, zeros=0.1, parameters=100, kernels={"MatMulInteger": 4},
    )  # fmt: skip


def found(chosen: str | None = "small") -> Frontier:
    entries = [
        Entry(figures=figures("teacher", 0.2, 4.0, 9_000_000), fronts=("p99",), remarks=(), config='name = "x"'),
        Entry(figures=figures("small", 0.19, 2.0, 1_000_000), fronts=(), remarks=(HOSTILE,), config=HOSTILE),
    ]
    miss = Miss(limit="max_p99_ms", measured=4.0, allowed=2.5, excess=0.6)
    choice = Choice(
        chosen=chosen, nearest=None if chosen else "small", reason=HOSTILE, runner_up=None,
        runner_up_costs="nothing else keeps every limit", misses={"teacher": (miss,), "small": ()},
    )  # fmt: skip
    return Frontier(
        name="tiny", created="2026-01-01T00:00:00+00:00", seconds=10.0, host=Host.here(), data="d" * 64,
        protocol=HOSTILE, measure=Measure(), limits=Limits(max_p99_ms=2.5, min_quality=0.18), gate=0.99,
        variants=tuple(entries), choice=choice,
    )  # fmt: skip


class Reader(HTMLParser):
    """Which elements are open where, what stands in them, and every attribute."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.fixture(scope="module")
def read() -> Reader:
    reader = Reader()
    reader.feed(page(found()))
    reader.close()
    assert reader.open == []
    return reader


def test_no_text_becomes_an_element(read: Reader) -> None:
    tags = [tag for tag, _ in read.seen]
    assert tags.count("script") == 3  # the data, Plotly, our own
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in read.seen for name in attributes)
    assert HOSTILE in "".join(read.text["p"])
    assert HOSTILE in "".join(read.text["pre"])


def test_the_page_fetches_nothing(read: Reader) -> None:
    assert not any({"src", "href"} & set(attributes) for _, attributes in read.seen)
    (policy,) = [a["content"] for _, a in read.seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_plots_are_plain_data_that_parses(read: Reader) -> None:
    (text,) = [text for text in read.text["script"] if text.startswith("[{")]
    assert "<" not in text  # nothing in it can end its element
    plots = msgspec.json.decode(text)
    ids = {attributes.get("id") for _, attributes in read.seen}
    assert len(plots) == 3
    for one in plots:
        assert one["id"] in ids
        line, *points = one["data"]
        assert line["name"] == "Pareto front"
        assert [point["name"] for point in points] == ["teacher", "small"]


def test_every_row_has_a_sortable_value_in_every_column(read: Reader) -> None:
    cells = [attributes["data-v"] for tag, attributes in read.seen if tag == "td" and "data-v" in attributes]
    buttons = [tag for tag, attributes in read.seen if tag == "button" and attributes.get("type") == "button"]
    assert len(cells) == 2 * len(buttons)
    assert "9000000" in cells


def test_a_plot_by_hand() -> None:
    drawn = plot(found(), PLOTS[0])
    line, teacher, small = drawn["data"]
    assert (line["x"], line["y"]) == ([4.0], [0.2])  # only the teacher is on the front of this plot
    assert (teacher["x"], teacher["y"], teacher["marker"]["symbol"]) == ([4.0], [0.2], "circle")
    assert small["marker"]["symbol"] == "square-open"
    assert small["text"] == ["<b>small ✓</b>"]
    assert teacher["error_x"]["array"] == [4.0]
    assert teacher["error_x"]["arrayminus"] == [2.0]
    assert "<script" not in teacher["customdata"][0]
    assert [shape["x0"] for shape in drawn["layout"]["shapes"]] == [2.5, 0]
    low, high = drawn["layout"]["xaxis"]["range"]
    assert 0 <= low < 1.0  # the least of all rounds, and no time below 0
    assert high > 8.0
    assert plot(found(), PLOTS[1])["layout"]["xaxis"]["type"] == "log"  # 1 to 9 MB


def test_marks_differ_in_colour_and_shape() -> None:
    assert len({(colour(i), symbol(i)) for i in range(len(COLOURS) * len(SYMBOLS))}) == len(COLOURS) * len(SYMBOLS)
    assert all(re.fullmatch("#[0-9A-F]{6}", one) for one in COLOURS)


def test_nothing_fits_is_said() -> None:
    text = page(found(chosen=None))
    assert "Nothing fits:" in text
    assert "fails max_p99_ms: 4, 60.0% above 2.5" in text


def test_a_step_in_a_line() -> None:
    step = Step(
        name="quantize", settings={"kind": "quantize", "bits": 8, "share": 0.5, "train": None, "deep": {"a": 1}}
    )
    assert said(step) == "quantize: bits 8, share 0.5"
    assert said(Step(name="train", settings={"x": "y" * 200})).endswith("…")


def test_the_trials_of_a_search_are_told() -> None:
    trial = Trial(number=3, state="complete", settings={"steps[0].bits": HOSTILE}, figures={"quality": 0.25}, misses={})
    lost = Trial(number=4, state="pruned", settings={}, figures={}, misses={"max_bundle_mb": 0.5}, note=HOSTILE)
    text = page(msgspec.structs.replace(found(), search=Searched(trials=(trial, lost), finalists=(3,))))
    assert "2 trials: 1 complete, 1 pruned; finalists: trial-3" in text
    assert HOSTILE not in text
    assert '<th scope="col"><button type="button">steps[0].bits</button></th>' in text
    assert "The search" not in page(found())
