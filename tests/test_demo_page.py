"""The interactive page in a real browser: what a person sees, and the same numbers as Python."""

import random

import browser
import numpy as np
import pytest
from test_demo import SENTENCES, array, data_of, make_twins

from mrl_course import demo

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")

D = 48
HOSTILE = [
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "<b>bold</b> &lt;i&gt; &amp; {{DATA}} ${window.broken = 3}",
    "\u202e right to left \u2028 line \u0007 bell",
]
QUERIES = [(SENTENCES[i], i) for i in range(0, len(SENTENCES), 9)] + [("goat in the rain", None)]


@pytest.fixture(scope="module")
def twins():
    return make_twins(D)


@pytest.fixture(scope="module")
def path(twins, tmp_path_factory):
    names = [f"text.number_{i}" for i in range(len(SENTENCES))]
    file = tmp_path_factory.mktemp("demo") / "page.html"
    return demo.build_demo(twins, SENTENCES, file, names=names, queries=QUERIES)


@pytest.fixture(scope="module")
def chrome():
    with browser.chromium() as running:
        yield running


@pytest.fixture
def open_page(chrome):
    """Open a page; afterwards it must have asked for nothing else and complained of nothing."""
    contexts, requests, complaints = [], [], []

    def open_it(file, **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = chrome.new_context(**options)
        context.set_default_timeout(browser.PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("#chart path.line", state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(requests) == len(contexts) and all(url.startswith("file:") for url in requests)


def names_in(page, panel):
    return page.locator(f".twin >> nth={panel} >> li .name").all_text_contents()


def expected_rows(path, model, text, k, shortlist=0):
    """Python's ranking over the very numbers that the page holds."""
    data = data_of(path)
    part = data["models"][model]
    dim = data["dim"]
    ids = make_twins(dim).regular[0].tokenizer.encode(text).ids
    query = demo.mean_of_rows(
        ids, array(part["table"]["codes"], "i1", dim), array(part["table"]["scales"], "<f4", 0)
    )
    corpus = array(part["corpus"]["codes"], "i1", dim)
    if shortlist:
        return demo.rerank_rows(query, corpus, k, shortlist).tolist()
    return demo.rank_rows(query, corpus, k).tolist()


# ------------------------------------------------------------------------------- using the page


def test_it_opens_with_an_example_at_a_twelfth(path, open_page):
    page = open_page(path)
    assert page.input_value("#query") == data_of(path)["queries"][0]["text"]
    assert page.input_value("#k") == page.input_value("#k-exact") == "4"  # 48 / 12
    assert page.get_attribute("#k", "max") == "48" and page.get_attribute("#k", "min") == "1"
    marks = page.locator("#marks span").all_text_contents()
    assert marks == ["1", "2", "4", "8", "16", "32", "48"]
    assert page.locator("#marks .twelfth").text_content() == "4"
    assert page.text_content("#bytes") == "4"
    assert page.text_content("#adds") == f"{4 * len(SENTENCES):,}"
    page.locator("#time", has_text="ms").wait_for()


def test_typing_gives_pythons_ranking_at_every_k_visited(path, open_page):
    page = open_page(path)
    page.fill("#query", "")
    page.locator("#query").press_sequentially("brown goat on the barn", delay=5)
    for k in (1, 3, 4, 17, 48):
        page.fill("#k-exact", str(k))
        for model in (0, 1):
            want = expected_rows(path, model, "brown goat on the barn", k)
            assert names_in(page, model) == [f"text.number_{row}" for row in want]


@pytest.mark.parametrize("shortlist", [0, 20, 50])
def test_search_and_overlap_equal_numpy_for_all_k(path, open_page, shortlist):
    page = open_page(path)
    for text in ("old cat", "the horse waits in rain", "zebra?"):
        for model in (0, 1):
            got = page.evaluate(
                "([m, t, s]) => Array.from({length: mrl.dim}, (_, j) => mrl.search(m, t, j+1, s))",
                [model, text, shortlist],
            )
            want = [expected_rows(path, model, text, k, shortlist) for k in range(1, D + 1)]
            assert got == want
            curve = page.evaluate(
                "([m, t, s]) => mrl.overlapAtEveryK(m, t, s)", [model, text, shortlist]
            )
            full = set(want[-1])
            assert curve == [len(full & set(rows)) for rows in want]


def test_moves_lost_and_overlap_tell_the_truth(path, open_page):
    page = open_page(path)
    page.fill("#query", "small dog near a hill")
    page.fill("#k-exact", "5")
    full, now = (expected_rows(path, 0, "small dog near a hill", k) for k in (D, 5))
    panel = page.locator(".twin >> nth=0")
    kept = len(set(full) & set(now))
    assert panel.locator(".score b").text_content() == str(kept)
    assert panel.locator(".dots .on").count() == kept
    moves = panel.locator("li .move").all_text_contents()
    for place, (row, move) in enumerate(zip(now, moves, strict=True)):
        if row not in full:
            assert move.startswith("+ new, was ")
        else:
            by = full.index(row) - place
            sign = f"▲ {by}" if by > 0 else f"▼ {-by}" if by < 0 else "="
            assert move.startswith(sign), move
    lost = [f"{i + 1} text.number_{row}" for i, row in enumerate(full) if row not in now]
    assert panel.locator(".lost").text_content() == f"Lost {len(lost)}: " + " · ".join(lost)
    page.fill("#k-exact", str(D))
    assert panel.locator(".score b").text_content() == "10"
    assert set(panel.locator("li .move > span:first-child").all_text_contents()) == {"="}
    assert panel.locator(".lost").is_hidden()


def test_the_right_answer_of_a_built_in_query_is_marked(path, open_page):
    page = open_page(path)
    page.fill("#k-exact", str(D))
    for query in data_of(path)["queries"][:3]:
        page.fill("#query", query["text"])
        assert page.locator(".twin >> nth=0 >> .right .name").text_content() == (
            f"text.number_{query['answer']}"
        )
        assert "place 1" in page.locator(".target >> nth=0").text_content()
    page.fill("#query", "something else")
    assert page.locator(".right").count() == 0


def test_dragging_follows_the_axis_of_doublings(path, open_page):
    page = open_page(path)
    box = page.locator("#track").bounding_box()
    y = box["y"] + 14

    def at(share):
        return box["x"] + share * box["width"]

    page.mouse.move(at(0.3), y)
    page.mouse.down()
    seen = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.4):
        page.mouse.move(at(share), y)
        seen.append(int(page.input_value("#k")))
    page.mouse.up()
    assert seen == [1, 3, 7, 18, 48, 48]  # 48 ** share
    page.mouse.click(
        *page.locator("#marks span >> nth=3").evaluate(
            "n => { const b = n.getBoundingClientRect(); return [b.x + b.width / 2, b.y + 12]; }"
        )
    )
    assert page.input_value("#k") == "8"
    chart = page.locator("#chart").bounding_box()
    page.mouse.click(at(0.5), chart["y"] + 30)
    assert page.input_value("#k") == "7"
    assert page.evaluate("document.activeElement.id") == "k"


def test_keyboard_alone_reaches_and_moves_everything(path, open_page):
    page = open_page(path)
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    for wanted in ("skip", "query", "chip", "another", "k", "k-exact", "less", "more", "rerank"):
        assert wanted in reached, reached
    page.focus("#query")
    page.keyboard.press("Control+A")
    page.keyboard.type("old bird")
    page.focus("#k")
    values = []
    for key in (
        "Home",
        "ArrowRight",
        "ArrowUp",
        "PageUp",
        "PageUp",
        "PageDown",
        "ArrowLeft",
        "End",
    ):
        page.keyboard.press(key)
        values.append(int(page.input_value("#k")))
    assert values == [1, 2, 3, 4, 8, 4, 3, 48]
    assert page.get_attribute("#k", "aria-valuetext") == "48 of 48 numbers"
    page.keyboard.press("Home")
    page.focus("#rerank")
    page.keyboard.press("Space")
    want = expected_rows(path, 1, "old bird", 1, 100)
    assert names_in(page, 1) == [f"text.number_{row}" for row in want]
    page.focus(".chip >> nth=1")
    page.keyboard.press("Enter")
    assert page.input_value("#query") == page.text_content(".chip >> nth=1")


def test_reranking_changes_lists_and_cost(path, open_page):
    page = open_page(path)
    page.fill("#k-exact", "3")
    before = int(page.locator(".score b >> nth=0").text_content())
    page.check("#rerank")
    page.select_option("#shortlist", "50")
    assert int(page.locator(".score b >> nth=0").text_content()) >= before
    assert page.text_content("#adds") == f"{3 * len(SENTENCES) + 50 * D:,}"
    assert "all 48" in page.text_content("#bytes-note")
    page.uncheck("#rerank")
    assert int(page.locator(".score b >> nth=0").text_content()) == before
    assert page.is_disabled("#shortlist")


def test_no_query_is_no_result_and_no_error(path, open_page):
    page = open_page(path)
    for text in ("", "   ", "\u200b\ufeff"):
        page.fill("#query", text)
        assert page.locator(".empty:visible").count() == 2
        assert page.locator("li:visible").count() == 0
        assert page.text_content("#tokens") == "0 tokens"
    page.fill("#query", "дом 中")
    assert page.locator("#tokens .unknown").count() == 2


def test_live_region_speaks_once_after_a_drag(path, open_page):
    page = open_page(path)
    page.evaluate(
        "window.heard = []; new MutationObserver(() => heard.push(document.getElementById('status')"
        ".textContent)).observe(document.getElementById('status'), {childList: true})"
    )
    page.locator("#status", has_text="k = ").wait_for(state="attached")
    page.evaluate("heard.length = 0")
    # A drag in one go: between single keys a busy browser may pause long enough to speak.
    page.evaluate(
        "const k = document.getElementById('k');"
        "for (let i = 0; i < 12; i++) { k.stepUp(); k.dispatchEvent(new Event('input')); }"
    )
    page.locator("#status", has_text="k = 16. ").wait_for(state="attached")
    page.wait_for_timeout(1000)  # longer than the page waits before it speaks
    heard = page.evaluate("heard")
    assert len(heard) == 1 and heard[0].startswith("k = 16. Regular twin: "), heard


def test_everything_has_a_name_for_screen_readers(path, open_page):
    page = open_page(path)
    for role, name in [
        ("textbox", "Your query"),
        ("slider", "k, numbers kept of each vector"),
        ("spinbutton", "k ="),
        ("switch", "Shortlist at k, rerank in full"),
        ("combobox", "Size of the shortlist"),
        ("button", "Another example"),
        ("article", "Matryoshka twin"),
        ("status", None),
    ]:
        assert page.get_by_role(role, name=name, exact=True).count() == 1, (role, name)
    assert "at k = 48" in page.get_attribute("#chart", "aria-label")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(n => !n.textContent.trim()"
        " && !n.labels?.length && !n.ariaLabel).map(n => n.id)"
    )
    assert unnamed == []


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_without_sideways_scrolling(path, open_page, width, scheme):
    page = open_page(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first, second = (page.locator(f".twin >> nth={i}").bounding_box() for i in (0, 1))
    assert second["y"] >= first["y"] + first["height"]
    page.locator(".twin >> nth=1").scroll_into_view_if_needed()
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert page.locator("#k-exact").bounding_box()["y"] < 150  # the dial stays in view
    labels = [page.locator("#marks span:not(.bare)").nth(i).bounding_box() for i in range(3)]
    assert all(a["x"] + a["width"] <= b["x"] + 1 for a, b in zip(labels, labels[1:], strict=False))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(path, open_page, scheme):
    """WCAG AA, 4.5 to 1, for all visible text."""
    page = open_page(path, color_scheme=scheme)
    ratios = page.evaluate("""() => {
      const lum = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92
        : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
      const rgb = text => text.match(/[\\d.]+/g).map(Number);
      const behind = node => {
        for (; node; node = node.parentElement) {
          const c = rgb(getComputedStyle(node).backgroundColor);
          if (c.length < 4 || c[3] === 1) return c;
        }
        return [255, 255, 255];
      };
      const kinds = 'p, span, b, h1, h2, dt, button, label, input, summary';
      return [...document.querySelectorAll(kinds)]
        .filter(n => n.textContent.trim() && n.offsetParent && ![...n.children].length).map(n => {
          const pair = [lum(rgb(getComputedStyle(n).color)), lum(behind(n))];
          const [a, b] = pair.sort((x, y) => y - x);
          return [(a + .05) / (b + .05), n.className || n.tagName]; });
    }""")
    assert len(ratios) > 40
    assert min(ratios)[0] >= 4.5, min(ratios)


def test_motion_can_be_switched_off(path, open_page):
    page = open_page(path, reduced_motion="reduce")
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].filter(n => parseFloat(getComputedStyle(n, '::before')"
        ".transitionDuration) > 0 || parseFloat(getComputedStyle(n).transitionDuration) > 0).length"
    )
    assert moving == 0


def test_hostile_texts_names_and_queries_stay_texts(twins, open_page, tmp_path):
    file = demo.build_demo(
        twins, HOSTILE, tmp_path / "h.html", names=HOSTILE, queries=HOSTILE, about=HOSTILE,
        title=HOSTILE[0],
    )  # fmt: skip
    page = open_page(file)
    for text in HOSTILE:
        page.fill("#query", text)
    page.check("#rerank")
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert sorted(page.locator(".twin >> nth=0 >> li .text").all_text_contents()) == sorted(HOSTILE)
    assert page.title() == HOSTILE[0]


@pytest.mark.parametrize("texts", [["one text"], SENTENCES[:4]])
def test_tiny_corpora_without_names(twins, open_page, tmp_path, texts):
    page = open_page(demo.build_demo(twins, texts, tmp_path / "t.html"))
    assert page.locator(".twin >> nth=0 >> li").count() == len(texts)
    page.fill("#query", texts[0])
    page.check("#rerank")
    assert page.locator(".score b >> nth=1").text_content() == str(len(texts))


def test_a_model_with_one_number(open_page, tmp_path):
    page = open_page(demo.build_demo(make_twins(1), SENTENCES, tmp_path / "one.html"))
    page.focus("#k")
    page.keyboard.press("ArrowRight")
    page.mouse.click(400, page.locator("#track").bounding_box()["y"] + 10)
    assert page.input_value("#k") == "1"


# ------------------------------------------------------------------------ parity with Python


def varied_sentences(count=1_000, seed=0):
    """Made-up sentences with everything that people and machines type."""
    rng = random.Random(seed)
    words = "the dog sleeps in a BARN Goats unbelievable 42 3.14 1,000,000 x_y e-mail don't".split()
    words += (
        "Ärger naïve façade İstanbul ΣΟΦΟΣ ŒUVRE ﬁne Ⅷ ½ ①  日本語 漢字 한국어 뷁 中a文".split()
    )
    words += "привет Ёлка שָׁלוֹם مَرْحَبًا हिन्दी ไทย 🐕‍🦺 👩🏽‍🚀 😀".split()
    words += "– — … “quote” «a» ¿qué? $5 €7 a+b=c ~ ` ^ | <b>".split()
    words += [
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u2003",
        "\u200b",
        "\u200d",
        "\u0000",
        "\ufffd",
        "\ufeff",
    ]
    words += [
        "e\u0301",
        "o\u0308\u0323",
        "\u1e9b\u0323",
        "\u0344",
        "\U0001d15e",
        "\ue000",
        "\u2028",
    ]
    sentences = ["", " ", ".", "[UNK]", "##dog", "a" * 100, "a" * 101, "é" * 100, "𝒳" * 101]
    sentences += ["dog " * 3_000, "x" * 20_000, "".join(map(chr, range(1, 0x500)))]
    while len(sentences) < count:
        parts = rng.choices(words, k=rng.randint(1, 25))
        if rng.random() < 0.3:
            parts.append("".join(chr(rng.randrange(0x20, 0xD800)) for _ in range(12)))
        if rng.random() < 0.2:
            parts.append("".join(chr(rng.randrange(0xE000, 0x30000)) for _ in range(8)))
        sentences.append(rng.choice(["", " ", "-"]).join(parts))
    return sentences


def test_a_thousand_varied_sentences_give_pythons_tokens_and_vectors(open_page, tmp_path):
    sentences = varied_sentences()
    assert len(set(sentences)) > 950
    twins = make_twins(32, SENTENCES + sentences[30:400], 2_500)
    page = open_page(demo.build_demo(twins, SENTENCES, tmp_path / "parity.html"))
    got = page.evaluate("texts => texts.map(text => mrl.tokenise(text))", sentences)
    tokenizer = twins.regular[0].tokenizer
    want = [tokenizer.encode(text, add_special_tokens=False).ids for text in sentences]
    for text, mine, pythons in zip(sentences, got, want, strict=True):
        assert mine == pythons, ascii(text)
    unknown = tokenizer.token_to_id("[UNK]")
    assert sum(unknown in ids for ids in want) > 50 and max(map(len, want)) >= 3_000
    for number, (_, model) in enumerate(twins):
        mine = np.array(page.evaluate(
            "([m, texts]) => texts.map(text => [...mrl.embed(m, text)])", [number, sentences]
        ))  # fmt: skip
        pythons = model.encode(sentences)
        lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(pythons, axis=1)
        assert ((lengths > 0) == [len(ids) > 0 for ids in want]).all()
        cosine = (mine * pythons).sum(axis=1)[lengths > 0] / lengths[lengths > 0]
        assert cosine.min() > 0.999


def test_texts_names_and_queries_may_run_from_right_to_left(open_page, tmp_path):
    texts = ["שלום עולם", "a small dog"]
    twins = make_twins(8, [*SENTENCES, *texts])
    page = open_page(demo.build_demo(twins, texts, tmp_path / "r.html", names=texts, queries=texts))
    found = page.evaluate(
        "() => [...document.querySelectorAll('.twin li .text, .twin li .name, .chip')]"
        ".map(node => [node.textContent, getComputedStyle(node).direction])"
    )
    assert len(found) == 2 * 2 * 2 + 2 + 1  # and the button "Another example"
    for text, direction in found:
        assert direction == ("rtl" if text == texts[0] else "ltr")
