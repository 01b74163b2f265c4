"""The builder of the interactive page, without a browser: vectors, rules, limits, bad input."""

import base64
import html
import json
import re
import sys
import unicodedata
import webbrowser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_course import cli, demo
from mrl_course.demo import corpora
from mrl_course.evaluation import retrieval_curve
from mrl_course.models import build_static_model, train_tokenizer
from mrl_course.training import Twins

SENTENCES = [
    f"The {size} {animal} {verb} {place}."
    for size in ("small", "old", "brown")
    for animal in ("dog", "cat", "horse", "bird", "goat")
    for verb in ("sleeps", "waits", "jumps", "eats")
    for place in ("near the barn", "on a hill", "in the rain")
]


def make_twins(dim=24, sentences=SENTENCES, vocab_size=300):
    tokenizer = train_tokenizer(sentences, vocab_size)
    return Twins(*(build_static_model([], dim, seed=s, tokenizer=tokenizer) for s in (0, 1)))


@pytest.fixture(scope="module")
def twins():
    return make_twins()


def data_of(path):
    """What the browser would read: the text of the data element."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def array(part, kind, columns):
    numbers = np.frombuffer(base64.b64decode(part), dtype=kind)
    return numbers.reshape(-1, columns) if columns else numbers


# ----------------------------------------------------------------------- vectors and rankings

rows = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.floats(-1e3, 1e3)
)


@given(rows)
def test_a_code_is_never_more_than_half_a_scale_away(emb):
    codes, scales = demo.quantise_rows(emb)
    assert codes.dtype == np.int8 and scales.dtype == np.float32 and codes.min() >= -127
    error = np.abs(codes * scales[:, None].astype(float) - emb)
    assert (error <= 0.5001 * scales[:, None] + 1e-30).all()
    full = np.abs(emb).max(axis=1) > 1e-30
    assert (np.abs(codes).max(axis=1)[full] == 127).all()


def test_rows_of_zeros_and_bad_numbers():
    codes, scales = demo.quantise_rows(np.zeros((2, 3)))
    assert not codes.any() and (scales == 1).all()
    with pytest.raises(ValueError, match="row 1"):
        demo.quantise_rows([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(ValueError, match=r"\(3,\)"):
        demo.quantise_rows([1.0, 2.0, 3.0])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6))
def test_ranking_and_overlap_are_those_of_plain_cosines(n, dim, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (n, dim)).astype(np.int8)
    query = rng.normal(size=dim)

    def by_cosine(k):
        vectors = (
            codes[:, :k]
            / np.maximum(np.linalg.norm(codes[:, :k].astype(float), axis=1), 1e-9)[:, None]
        )
        return np.argsort(-np.round(vectors @ query[:k], 9), kind="stable")[:10]

    scores = {k: np.round(demo.prefix_scores(query, codes, k), 9) for k in range(1, dim + 1)}
    for k in range(1, dim + 1):  # by score, because the last digit may turn two equal rows round
        np.testing.assert_allclose(
            scores[k][demo.rank_rows(query, codes, k)], scores[k][by_cosine(k)], atol=2e-9
        )
    curve = demo.overlap_curve(query, codes)
    full = set(demo.rank_rows(query, codes, dim))
    expected = [len(full & set(demo.rank_rows(query, codes, k))) for k in range(1, dim + 1)]
    assert curve.tolist() == expected and curve[-1] == min(10, n)
    with_shortlist = demo.overlap_curve(query, codes, shortlist_size=15)
    expected = [len(full & set(demo.rerank_rows(query, codes, k, 15))) for k in range(1, dim + 1)]
    assert with_shortlist.tolist() == expected
    assert (with_shortlist >= curve).all()


def test_first_result_agrees_with_the_courses_recall():
    rng = np.random.default_rng(3)
    corpus = rng.normal(size=(50, 12))
    queries = corpus + rng.normal(size=(50, 12))
    codes, _ = demo.quantise_rows(corpus)
    found = [demo.rank_rows(query, codes, 6, 5) for query in queries]
    recall = np.mean([i in rows for i, rows in enumerate(found)])
    # The curve normalises the float rows; on codes it must give the very same number.
    curve = retrieval_curve(queries, codes.astype(float), list(range(50)), [6], top_k=5)
    assert recall == pytest.approx(curve[6])


def test_equal_rows_come_in_order_of_their_number():
    codes = np.array([[1, 2], [2, 4], [9, -9], [1, 2]], dtype=np.int8)
    assert demo.rank_rows(np.array([1.0, 1.0]), codes, 1).tolist() == [0, 1, 2, 3]
    assert demo.rank_rows(np.array([1.0, 2.0]), codes, 2, 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("k", [0, 3])
def test_sizes_that_do_not_exist(k):
    with pytest.raises(ValueError, match=f"between 1 and 2 .*, got {k}"):
        demo.prefix_scores(np.ones(2), np.ones((3, 2), np.int8), k)
    with pytest.raises(ValueError, match="do not fit"):
        demo.prefix_scores(np.ones(3), np.ones((3, 2), np.int8), 1)


# ------------------------------------------------------------------------ rules of the tokenizer


def test_rules_know_the_kinds_of_characters(twins):
    rules = demo.character_rules(twins.regular[0].tokenizer)

    def within(name, character):
        pairs = zip(rules[name][::2], rules[name][1::2], strict=True)
        return any(first <= ord(character) <= last for first, last in pairs)

    assert within("drop", "\x00") and not within("drop", "\u0301") and not within("drop", "a")
    assert within("space", "\n") and within("space", "\u00a0") and not within("space", " ")
    assert within("apart", "中") and not within("apart", "あ")
    assert within("white", " ") and within("punctuation", "$") and within("punctuation", "¿")
    assert rules["map"]["É"] == "é" and rules["map"]["Σ"] == "σ" and rules["hangul"] is False
    assert "|" not in rules["map"]


def test_rules_are_asked_of_the_tokenizer_itself():
    from tokenizers import normalizers

    tokenizer = train_tokenizer(["A word"], 100)
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=True)
    rules = demo.character_rules(tokenizer)
    assert rules["map"]["É"] == "e" and rules["hangul"] is True
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    rules = demo.character_rules(tokenizer)
    assert "É" not in rules["map"] and rules["hangul"] is False
    tokenizer.normalizer = normalizers.NFKC()
    with pytest.raises(ValueError, match="NFKC"):
        demo.character_rules(tokenizer)


def test_every_character_follows_the_rules(twins):
    """The table applied in Python gives what the tokenizer gives, for all of Unicode."""
    tokenizer = twins.regular[0].tokenizer
    rules = demo.character_rules(tokenizer)
    changed = {name: set() for name in ("drop", "space", "apart")}
    for name, codes in changed.items():
        for first, last in zip(rules[name][::2], rules[name][1::2], strict=True):
            codes.update(range(first, last + 1))
    rng = np.random.default_rng(0)
    for code in [*range(0x3000), *rng.integers(0x3000, 0x110000, 20_000).tolist()]:
        if 0xD800 <= code < 0xE000:
            continue
        c = chr(code)
        if code in changed["drop"]:
            mine = ""
        elif code in changed["space"]:
            mine = " "
        elif code in changed["apart"]:
            mine = f" {c} "
        elif 0xAC00 <= code <= 0xD7A3 and rules["hangul"]:
            mine = unicodedata.normalize("NFD", c)
        else:
            mine = rules["map"].get(c, c)
        assert mine == tokenizer.normalizer.normalize_str(c), hex(code)


# ---------------------------------------------------------------------------------- the page


def test_page_holds_tables_and_corpus_as_int8_with_the_order_kept(twins, tmp_path):
    path = demo.build_demo(twins, SENTENCES, tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html"
    data = data_of(path)
    assert data["dim"] == 24 and data["texts"] == SENTENCES
    for (name, model), part in zip(twins, data["models"], strict=True):
        assert part["name"] == name
        table = model[0].embedding.weight.detach().numpy()
        for rows, want in (("table", table), ("corpus", model.encode(SENTENCES))):
            codes, scales = (
                array(part[rows]["codes"], "i1", 24),
                array(part[rows]["scales"], "<f4", 0),
            )
            assert len(codes) == len(want) == len(scales)
            np.testing.assert_allclose(
                codes * scales[:, None], want, atol=float(scales.max()) * 0.51
            )


def test_average_is_the_mean_of_the_built_in_queries(twins, tmp_path):
    queries = ["a small dog", "rain on the hill", "horse"]
    data = data_of(demo.build_demo(twins, SENTENCES, tmp_path / "p.html", queries=queries))
    assert sorted(query["text"] for query in data["queries"]) == sorted(queries)
    tokenizer = twins.regular[0].tokenizer
    for part in data["models"]:
        codes, scales = (
            array(part["table"]["codes"], "i1", 24),
            array(part["table"]["scales"], "<f4", 0),
        )
        corpus = array(part["corpus"]["codes"], "i1", 24)
        for shortlist, curve in part["average"].items():
            curves = [
                demo.overlap_curve(
                    demo.mean_of_rows(tokenizer.encode(q).ids, codes, scales),
                    corpus,
                    shortlist_size=int(shortlist),
                )
                for q in queries
            ]
            np.testing.assert_allclose(curve, np.mean(curves, axis=0), atol=0.0051)


def test_the_same_arguments_give_the_same_bytes(twins, tmp_path):
    pages = [
        demo.build_demo(make_twins(), SENTENCES, tmp_path / f"{i}.html", queries=[("dog", 3)])
        for i in range(2)
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_page_names_no_address_and_allows_no_request(twins, tmp_path):
    text = demo.build_demo(twins, SENTENCES, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "unsafe-inline" not in text
    for address in re.findall(r"https?://[^\"'\s<]+", text):
        assert address == "http://www.w3.org/2000/svg"  # a name, never fetched
    script = re.search(r"</script>\n<script>(.*?)</script>", text, re.S)[1]
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script
    assert "fetch(" not in script and "XMLHttpRequest" not in script and "import(" not in script


def test_no_text_can_leave_its_place_in_the_file(twins, tmp_path):
    hostile = ["</script><script>alert(1)</script>", "{{SCRIPT}} {{DATA}}", "<!-- <script> é\u2028"]
    page = demo.build_demo(
        twins, hostile, tmp_path / "p.html", names=hostile, queries=hostile, title="<b>{{DATA}}"
    )
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<!-- " not in text
    data = data_of(page)
    assert data["texts"] == data["names"] == hostile and data["title"] == "<b>{{DATA}}"
    assert "<title>&lt;b&gt;{{DATA}}</title>" in text


def test_repeated_texts_are_left_out_and_answers_follow(twins, tmp_path):
    texts = ["a dog", "a cat", "a dog", "a bird", "a cat"]
    data = data_of(
        demo.build_demo(
            twins, texts, tmp_path / "p.html", names=list("abcde"), queries=[("cat", 4), ("x", 3)]
        )
    )
    assert data["texts"] == ["a dog", "a cat", "a bird"] and data["names"] == ["a", "b", "d"]
    assert {(q["text"], q["answer"]) for q in data["queries"]} == {("cat", 1), ("x", 2)}
    assert any("2 texts that came again" in line for line in data["about"])


def test_long_texts_count_whole_and_are_shown_in_part(twins, tmp_path):
    long = "dog " * 2_500 + "cat"
    data = data_of(demo.build_demo(twins, [long, "a cat"], tmp_path / "p.html"))
    assert len(data["texts"][0]) <= 600 and data["texts"][0].endswith("…")
    part = data["models"][0]["corpus"]
    vector = array(part["codes"], "i1", 24)[0] * array(part["scales"], "<f4", 0)[0]
    want = twins.regular.encode([long])[0]
    assert vector @ want / np.linalg.norm(vector) / np.linalg.norm(want) > 0.999


def test_queries_that_both_answer_come_first(twins, tmp_path):
    queries = [("cat", 0), (SENTENCES[5], 5), ("zzz", 3), (SENTENCES[7], 7)]
    data = data_of(demo.build_demo(twins, SENTENCES, tmp_path / "p.html", queries=queries))
    assert {query["text"] for query in data["queries"][:2]} == {SENTENCES[5], SENTENCES[7]}


def test_too_large_a_page_says_what_is_large_and_writes_nothing(twins, tmp_path):
    with pytest.raises(ValueError, match=r"limit is 0\.1 MB.*tokens x D = 24.*Lower the number of"):
        demo.build_demo(twins, SENTENCES, tmp_path / "p.html", max_bytes=50_000)
    assert list(tmp_path.iterdir()) == []


def test_default_sizes_fit_into_the_budget(tmp_path):
    """The largest default page: 5,000 texts as long as any, D = 192, 5,000 tokens."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(6_000)]
    texts = [" ".join(rng.choice(words, 48)) for _ in range(5_000)]  # 335 characters
    twins = make_twins(demo.DEFAULT_DIM, texts[:1_500], demo.DEFAULT_VOCAB)
    queries = [text[:40] for text in texts[:5]]
    page = demo.build_demo(
        twins, texts, tmp_path / "p.html", names=[text[:30] for text in texts], queries=queries
    )
    assert 5_000_000 < page.stat().st_size <= demo.MAX_BYTES == 8_000_000


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("corpus", "error", "says"),
    [
        ([], ValueError, "corpus is empty"),
        ("one text", TypeError, "list of strings"),
        ({"text": ["a dog"]}, TypeError, "one column of texts"),
        (["a dog", ""], ValueError, r"corpus\[1\] is blank"),
        (["a dog", None], TypeError, r"corpus\[1\] is None"),
        (["a \ud800 dog"], ValueError, "lone surrogate"),
    ],
)
def test_corpora_that_cannot_be_searched(twins, tmp_path, corpus, error, says):
    with pytest.raises(error, match=says):
        demo.build_demo(twins, corpus, tmp_path / "p.html")
    assert list(tmp_path.iterdir()) == []


def test_names_and_queries_must_fit(twins, tmp_path):
    for options, says in [
        ({"names": ["one"]}, "120|180"),
        ({"queries": [("dog", 999)]}, "the answer of query 0 .* got 999"),
        ({"queries": [" "]}, "query 0 is blank"),
    ]:
        with pytest.raises(ValueError, match=says):
            demo.build_demo(twins, SENTENCES, tmp_path / "p.html", **options)


def test_models_that_the_page_cannot_hold(twins, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    def build(pair):
        demo.build_demo(pair, SENTENCES, tmp_path / "p.html")

    with pytest.raises(ValueError, match="regular has D = 24, matryoshka has D = 16"):
        build(Twins(twins.regular, make_twins(16).matryoshka))
    deeper = SentenceTransformer(modules=[twins.regular[0], Dense(24, 24)], device="cpu")
    with pytest.raises(TypeError, match=r"StaticEmbedding \+ Dense.*static models only"):
        build(Twins(twins.regular, deeper))
    with pytest.raises(TypeError, match="regular model is str.*static models only"):
        build({"regular": "all-MiniLM-L6-v2", "matryoshka": twins.matryoshka})
    with pytest.raises(ValueError, match="two models, got 1"):
        build({"regular": twins.regular})
    with pytest.raises(TypeError, match="two models, got 7"):
        build(7)
    with pytest.raises(ValueError, match="different tokenizers"):
        build(Twins(twins.regular, make_twins(24, SENTENCES[:9]).matryoshka))
    broken = make_twins()
    broken.matryoshka[0].embedding.weight.data[3, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        build(broken)


def test_a_pair_of_models_is_enough(twins, tmp_path):
    data = data_of(
        demo.build_demo((twins.regular, twins.matryoshka), SENTENCES, tmp_path / "p.html")
    )
    assert [model["name"] for model in data["models"]] == ["regular", "matryoshka"]


def test_places_that_cannot_be_written_to(twins, tmp_path):
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for path in (tmp_path / "file" / "p.html", tmp_path):
        with pytest.raises(OSError, match="cannot write .*choose another"):
            demo.build_demo(twins, SENTENCES, path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ---------------------------------------------------------------------------------- the command


def run(*arguments):
    return cli.main(["demo", "--dim", "8", "--vocab", "300", *map(str, arguments)])


def test_command_with_a_list_of_texts(tmp_path, capsys):
    source = tmp_path / "mine.txt"
    source.write_text("\ufeff" + "\n\n".join(SENTENCES[:60]), encoding="utf-8")
    assert run("--corpus", source, "--limit", 50, "--out", tmp_path / "p.html") == 0
    assert "50 texts" in capsys.readouterr().out
    data = data_of(tmp_path / "p.html")
    assert data["texts"] == SENTENCES[:50] and data["dim"] == 8
    assert "The texts are 50 of 60 in mine.txt." in data["about"]
    assert str(tmp_path) not in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_command_with_a_table_holds_queries_out(tmp_path):
    lines = ["name,query,text"]
    lines += [f'n{i},"where, {i}","{text}"' for i, text in enumerate(SENTENCES[:40])]
    source = tmp_path / "mine.csv"
    source.write_text("\n".join(lines), encoding="utf-8")
    assert run("--corpus", source, "--out", tmp_path / "p.html") == 0
    data = data_of(tmp_path / "p.html")
    assert data["names"][3] == "n3" and len(data["queries"]) == 8
    assert any("trained on 32" in line for line in data["about"])
    assert all(query["text"] == f"where, {query['answer']}" for query in data["queries"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "title,body\nx,y\n", "no column `text`; its columns: title, body"),
        ("a.csv", "query,text\nq,\n", "holds no text"),
        ("a.csv", "text\n\n", "holds no text"),
        ("a.txt", " \n", "holds no text"),
        ("a.txt", "one two\nthree", "at least 2 are needed"),
    ],
)
def test_files_that_hold_too_little(tmp_path, capsys, name, content, says):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert run("--corpus", tmp_path / name, "--out", tmp_path / "p.html") == 2
    assert says in capsys.readouterr().err


def test_files_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert run("--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html") == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert run("--corpus", tmp_path / "none.txt", "--out", tmp_path / "p.html") == 2
    assert "cannot read" in capsys.readouterr().err


def test_models_from_a_folder_are_taken_as_they_are(twins, tmp_path, capsys):
    for name, model in twins:
        model.save(str(tmp_path / "models" / name), create_model_card=False)
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    arguments = ["--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html", "--models"]
    assert run(*arguments, tmp_path / "models") == 0
    data = data_of(tmp_path / "p.html")
    assert (
        data["dim"] == 24
        and "The twins were trained elsewhere and taken as they are." in data["about"]
    )
    assert run(*arguments, tmp_path) == 2
    assert "save-models" in capsys.readouterr().err


def test_the_regular_twin_beside_itself_after_rotate_and_distil(twins, tmp_path, capsys):
    for name, model in twins:
        model.save(str(tmp_path / "models" / name), create_model_card=False)
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    arguments = ["--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html", "--rotate"]
    assert run(*arguments, "--models", tmp_path / "models") == 0
    assert "without labels" in capsys.readouterr().out
    data = data_of(tmp_path / "p.html")
    assert [model["name"] for model in data["models"]] == ["regular", "rotate and distil"]
    assert any("At full size the two are equal" in line for line in data["about"])
    old, new = (demo.rotated_twins(twins, demo.DemoCorpus(SENTENCES))[0]).values()
    a, b = (model.encode(SENTENCES, normalize_embeddings=True) for model in (old, new))
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-4)
    assert not np.allclose(a[:, :8], b[:, :8], atol=0.01)


def test_open_hands_the_page_to_the_browser(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    assert run("--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html", "--open") == 0
    assert opened == [(tmp_path / "p.html").as_uri()]


@pytest.mark.slow
def test_command_with_the_miniature(tmp_path):
    page = tmp_path / "p.html"
    assert run("--corpus", "mini", "--limit", 300, "--out", page) == 0
    data = data_of(page)
    assert len(data["texts"]) == 300 and all(q["answer"] < 300 for q in data["queries"])


@pytest.mark.slow
def test_docstring_queries_are_held_out(monkeypatch):
    trained = []
    monkeypatch.setattr(corpora, "_train", lambda pairs, *rest: trained.extend(pairs))
    corpus = demo.docstring_demo(1_000).corpus
    assert len(corpus.texts) == len(set(corpus.texts)) == len(corpus.names) == 1_000
    seen = {text for pair in trained for text in pair}
    for query, row in corpus.queries:
        assert query not in seen and corpus.texts[row] not in seen
    assert len(corpus.queries) == 200


# --------------------------------------------------------------------------------- in notebooks


def test_jupyter_gets_the_address_and_colab_the_page(twins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = demo.build_demo(twins, SENTENCES[:9], "build/p.html")
    assert 'src="build/p.html"' in demo.show_page(page).data
    assert len(demo.show_page(page).data) < 300
    monkeypatch.setitem(sys.modules, "google.colab", demo)
    frame = demo.show_page(page).data
    inside = re.search(r'srcdoc="([^"]*)"', frame)[1]
    assert html.unescape(inside) == page.read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="build_demo"):
        demo.show_page("none.html")
