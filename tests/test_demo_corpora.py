"""What a demo searches: files as strangers write them, hold-outs, checks before the work."""

import csv
import random
import re
import sys

import numpy as np
import pytest
from test_demo import SENTENCES, data_of, make_twins

from mrl_course import cli, demo, training
from mrl_course.demo import corpora
from mrl_course.errors import WrongKind, WrongValue


def read(tmp_path, content, name="mine.csv"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return demo.read_corpus(tmp_path / name)


def run(*arguments):
    return cli.main(["demo", "--dim", "8", "--vocab", "300", *map(str, arguments)])


@pytest.fixture
def no_training(monkeypatch):
    """Whatever is refused must be refused before this."""

    def never(*args, **kwargs):
        pytest.fail("trained before the input was checked")

    monkeypatch.setattr(training, "train_twins", never)
    monkeypatch.setattr(training, "train", never)


# ---------------------------------------------------------------------------- files of texts


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_line_ends_only(tmp_path, end):
    texts = ["one\u2028still", "two\x85a", "three\x0bb", "four\x0cc", "five\x1cd"]
    assert read(tmp_path, end.join(texts), "a.txt").texts == texts
    table = read(tmp_path, end.join(["text", *texts, ""]))
    assert table.texts == texts


def test_lines_that_show_nothing_are_no_texts(tmp_path):
    content = "\ufeff\n one \n\u200b\n\u00ad\u200d\n \t\ntwo"
    assert read(tmp_path, content, "a.txt").texts == ["one", "two"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "\ufeff", "sep"])
def test_the_header_says_what_divides_the_cells(tmp_path, separator, first):
    lead = f"sep={separator}\r\n" if first == "sep" else first
    rows = [["Text", "name", "QUERY"], ['"Ein Satz, mit; Komma\t|"', "alpha", "wo?"]]
    content = lead + "\r\n".join(separator.join(row) for row in rows)
    corpus = read(tmp_path, content)
    assert corpus.texts == ["Ein Satz, mit; Komma\t|"]
    assert corpus.names == ["alpha"] and corpus.queries == [("wo?", 0)] and corpus.about == []


def test_commas_in_a_table_divided_by_semicolons_stay_in_the_text(tmp_path):
    corpus = read(tmp_path, "text;name\nEin Satz, mit Komma, und mehr;alpha\n")
    assert corpus.texts == ["Ein Satz, mit Komma, und mehr"] and corpus.names == ["alpha"]


def test_random_tables_are_read_as_they_were_written(tmp_path):
    rng = random.Random(0)
    for separator in ",;\t|":
        for _ in range(40):
            texts = ["".join(rng.choices('ab ",;|\t\n\r\u2028', k=6)) for _ in range(4)]
            texts = [f"x{text}y" if i % 2 else f'"{text}y' for i, text in enumerate(texts)]
            names = ["".join(rng.choices('n"\n', k=3)) + "n" for _ in texts]
            with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter=separator)
                writer.writerow(["name", "text", "else"])
                writer.writerows([[n, t, "e"] for n, t in zip(names, texts, strict=True)])
            corpus = demo.read_corpus(tmp_path / "a.csv")
            assert corpus.texts == [text.strip() for text in texts]
            assert corpus.names == [name.strip() for name in names]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text\nHello, dear world\nplain\n", "line 2 has 2 cells, and the header has 1"),
        (
            "a.csv",
            "text,name\na,b\n\nHello, world,hi\n",
            "line 4 has 3 cells, .* has 2; put a text",
        ),
        ("a.csv", "text,name\na\n", "line 2 has 1 cell, and the header has 2$"),
        ("a.csv", 'text\n"a\nb"\nc,d\n', "line 4 has 2 cells"),
        ("a.csv", 'text\n"never closed\nplain\n', "line 2: a quotation mark is not closed"),
        ("a.csv", 'text\n"never closed\n"plain"\n', "line 3: there is something behind"),
        ("a.csv", 'text\n"He" said so\n', "line 2: there is something behind a closing"),
        ("a.csv", "first text\nsecond text\n", "no column `text`; its columns: first text .*save"),
        ("a.csv", "title;body\na;b\n", r"its columns: title, body \(divided by semicolons\)"),
        ("a.csv", "text,text\na,b\n", "more than one column `text`"),
        ("a.csv", "", "no column `text`"),
        ("a.csv", "text\n" + "x" * 10_000_001, "line 2: a cell has 10,000,001 characters"),
        ("a.txt", b"o\0n\0e\0", "NUL characters"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.tsv", "text\tname\na\tb", r"no \.txt .* or \.csv"),
        ("a.jsonl", '{"text": "a"}', r"no \.txt .* or \.csv"),
        ("docstring", "a", r"no \.txt .* or \.csv"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, name, content, says):
    with pytest.raises(WrongValue, match=says):
        read(tmp_path, content, name)


def test_long_cells_are_read_and_the_process_keeps_its_limit(tmp_path):
    limit = csv.field_size_limit()
    assert len(read(tmp_path, "text\n" + "x" * 1_000_000).texts[0]) == 1_000_000
    assert csv.field_size_limit() == limit


def test_rows_without_a_text_are_counted(tmp_path):
    corpus = read(tmp_path, "name,text\na,one\nb,\n,\n\nc,\u200b\n,two\n")
    assert corpus.texts == ["one", "two"] and corpus.names == ["a", "(no name)"]
    assert corpus.about == ["2 rows without a text left out."]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("\n".join(SENTENCES[:50]))
    assert demo.read_corpus("~/t.txt").texts == SENTENCES[:50]
    page = demo.build_demo(make_twins(), SENTENCES[:9], "~/p.html")
    assert page == tmp_path / "p.html" and page.is_file() and not (tmp_path / "~").exists()
    assert "p.html" in demo.show_page("~/p.html").data


# ---------------------------------------------------------------------------------- hold-outs


def learnt_pairs(monkeypatch):
    seen = []
    monkeypatch.setattr(corpora, "_train", lambda pairs, *rest: seen.extend(pairs))
    return seen


def faq(answers, phrasings):
    return [
        (f"Answer {a} is long enough.", f"phrasing {p} of {a}")
        for a in range(answers)
        for p in range(phrasings)
    ]


@pytest.mark.parametrize(("answers", "phrasings"), [(100, 5), (20, 10), (4, 5), (30, 1)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_an_answer_is_held_out_with_all_its_questions(
    tmp_path, monkeypatch, answers, phrasings, shuffled
):
    rows = faq(answers, phrasings)
    if shuffled:
        random.Random(1).shuffle(rows)
    learnt = learnt_pairs(monkeypatch)
    read(tmp_path, "text,query\n" + "\n".join(map(",".join, rows)))
    corpus = demo.own_demo(tmp_path / "mine.csv").corpus
    held = -(-answers // 5)
    assert len(corpus.texts) == answers == len(set(corpus.texts))
    assert len(corpus.queries) == held * phrasings
    assert len(learnt) == (answers - held) * phrasings
    known = {text for pair in learnt for text in pair}
    for query, row in corpus.queries:
        assert query not in known and corpus.texts[row] not in known
        assert (corpus.texts[row], query) in rows
    assert any(f"trained on {len(learnt)} of its pairs" in line for line in corpus.about)


def test_more_questions_than_a_page_takes(tmp_path, monkeypatch):
    learnt = learnt_pairs(monkeypatch)
    read(tmp_path, "text,query\n" + "\n".join(map(",".join, faq(200, 7))))
    corpus = demo.own_demo(tmp_path / "mine.csv").corpus
    assert 190 < len(corpus.queries) <= 200
    assert len(learnt) + len(corpus.queries) == 1_400


def test_one_question_for_several_answers_stays_on_one_side(tmp_path, monkeypatch):
    learnt = learnt_pairs(monkeypatch)
    rows = [f"Text number {i} here,topic {i % 12}" for i in range(60)]
    read(tmp_path, "text,query\n" + "\n".join(rows))
    corpus = demo.own_demo(tmp_path / "mine.csv").corpus
    assert len(learnt) == 45  # nine of twelve topics
    assert {query for query, _ in corpus.queries} == {"topic 0", "topic 5", "topic 10"}
    assert not {query for query, _ in corpus.queries} & {query for query, _ in learnt}


def test_pairs_that_all_hang_together_are_learnt_and_it_is_said(tmp_path, monkeypatch):
    learnt = learnt_pairs(monkeypatch)
    read(tmp_path, "text,query\n" + "\n".join(f"Text number {i},same" for i in range(20)))
    corpus = demo.own_demo(tmp_path / "mine.csv").corpus
    assert len(learnt) == 20 and any("none could be held out" in line for line in corpus.about)


def test_a_limit_counts_different_texts(tmp_path, monkeypatch):
    learnt_pairs(monkeypatch)
    read(tmp_path, "text,query\n" + "\n".join(map(",".join, faq(30, 5))))
    corpus = demo.own_demo(tmp_path / "mine.csv", 10).corpus
    assert len(corpus.texts) == 10 and all(row < 10 for _, row in corpus.queries)
    assert "The texts are 10 of 30 in mine.csv, which has 150 rows with a text." in corpus.about


def test_texts_without_spaces_are_named_as_the_cause(tmp_path, no_training):
    read(tmp_path, "ภาษาไทยเขียนติดกัน\nไม่มีช่องว่าง\n" * 30, "a.txt")
    with pytest.raises(
        WrongValue, match=r"a\.txt gives 0 pairs.*between spaces; 2 of 2 have fewer"
    ):
        demo.own_demo(tmp_path / "a.txt")


# --------------------------------------------------------------------- checks before the work


def test_too_few_texts_to_rotate_are_refused_before_the_training(tmp_path, capsys, no_training):
    few = [*SENTENCES[:39], *(" ".join(reversed(s.split())) for s in SENTENCES[:5])]
    (tmp_path / "a.txt").write_text("\n".join([*few, f"{SENTENCES[0]} {SENTENCES[0]}"]))
    arguments = ["--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html", "--rotate"]
    assert run(*arguments) == 2
    assert "needs 40 texts that differ in their tokens" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_pages_that_will_be_too_large_are_refused_before_the_training(tmp_path, no_training):
    (tmp_path / "a.txt").write_text("\n".join(f"one two three {i}" for i in range(4_000)))
    with pytest.raises(WrongValue, match=r"limit is 8\.0 MB.*corpus vectors \(4,000 x 768\)"):
        demo.own_demo(tmp_path / "a.txt", dim=768)


def test_places_are_tried_before_the_training(tmp_path, capsys, no_training):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "page").mkdir()
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "page", tmp_path / "file" / "p.html"):
        assert run("--corpus", tmp_path / "a.txt", "--out", out) == 2
        assert "cannot write" in capsys.readouterr().err
    with pytest.raises(OSError, match="it is a folder"):
        demo.build_demo("no model is looked at", SENTENCES, tmp_path / "page")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", "-1"), ("--seed", "1.5"), ("--seed", str(2**32)), ("--vocab", "99"),
     ("--dim", "0"), ("--limit", "0")],
)  # fmt: skip
def test_numbers_on_the_command_line(tmp_path, capsys, no_training, option, value):
    with pytest.raises(SystemExit) as stop:
        run("--corpus", "mini", "--out", tmp_path / "p.html", option, value)
    assert stop.value.code == 2 and "needs a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"dim": 0}, WrongValue, "dim must be at least 1, got 0"),
        ({"dim": 8.0}, WrongKind, "dim must be an integer"),
        ({"seed": -1}, WrongValue, "seed must be between 0"),
        ({"vocab_size": 5}, WrongValue, "vocab_size must be at least 100, got 5"),
        ({"limit": 0}, WrongValue, "limit must be at least 1"),
    ],
)
def test_numbers_in_a_call(tmp_path, no_training, how, error, says):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    with pytest.raises(error, match=says):
        demo.own_demo(tmp_path / "a.txt", **how)


def test_unknown_tokens_are_said_before_the_training_and_in_the_page(tmp_path, monkeypatch):
    lines = ["text,query", *(f"{s},where {i}" for i, s in enumerate(SENTENCES[:40]))]
    lines[1] = "ΩΨ ΞΔ,Ω"  # held out, so no vocabulary has these letters
    read(tmp_path, "\n".join(lines))
    said = []
    twins, corpus = demo.own_demo(tmp_path / "mine.csv", dim=4, vocab_size=200, say=said.append)
    order = [i for i, line in enumerate(said) if "of the tokens" in line or "trained in" in line]
    assert re.search(r"\d\.\d % of the tokens .* unknown", said[order[0]]) and len(order) == 3
    page = data_of(demo.build_demo(twins, corpus, tmp_path / "p.html"))
    assert any("unknown to the models" in line for line in page["about"])


def test_many_unknown_tokens_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="100.0 % of the tokens") as caught:
        demo.build_demo(make_twins(), ["ΩΨ", "ΞΔ"], tmp_path / "p.html")
    assert len(caught) == 1 and caught[0].filename == __file__
    known = data_of(demo.build_demo(make_twins(), SENTENCES, tmp_path / "p.html"))
    assert not any("unknown" in line for line in known["about"])


# ------------------------------------------------------------------------- rotate and distil


def test_rotate_trains_one_model_and_speaks_of_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    real, trained = training.train, []
    monkeypatch.setattr(training, "train", lambda *a, **k: trained.append(a[2]) or real(*a, **k))
    monkeypatch.setattr(training, "train_twins", lambda *a, **k: pytest.fail("trained both"))
    arguments = ["--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html", "--rotate"]
    assert run(*arguments) == 0
    assert trained == [[8]]
    data = data_of(tmp_path / "p.html")
    assert [model["name"] for model in data["models"]] == ["regular", "rotate and distil"]
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    shown = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", text, flags=re.S)
    assert not re.search("twins", shown) and "twin" not in " ".join(data["about"])
    assert "The model learnt" in " ".join(data["about"])


def test_the_one_model_is_the_regular_twin(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    both = demo.own_demo(tmp_path / "a.txt", dim=8, vocab_size=300)
    one = demo.own_demo(tmp_path / "a.txt", dim=8, vocab_size=300, rotate=True)
    assert isinstance(one, demo.Demo) and one.corpus.texts == both.corpus.texts
    a, b = (model.encode(SENTENCES) for model in (both.twins.regular, one.twins["regular"]))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("given", ["twins", "model", "mapping"])
def test_given_models_are_rotated_without_a_training(tmp_path, no_training, given):
    twins = make_twins()
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    what = {"twins": twins, "model": twins.regular, "mapping": dict(twins)}[given]
    models, corpus = demo.own_demo(tmp_path / "a.txt", twins=what, rotate=True)
    assert models["regular"] is twins.regular and list(models)[1] == "rotate and distil"
    assert "The model was trained elsewhere and taken as it is." in corpus.about


def test_what_cannot_be_rotated(tmp_path, no_training):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    with pytest.raises(WrongValue, match="at least 2 numbers, and D is 1"):
        demo.own_demo(tmp_path / "a.txt", dim=1, rotate=True)
    with pytest.raises(WrongKind, match="one static model, got 7"):
        demo.rotated_twins(7, demo.DemoCorpus(SENTENCES))


def test_ctrl_c_in_the_fit_ends_the_command(tmp_path, monkeypatch, capsys):
    from mrl_course import retrofit

    real = retrofit.fit_head

    def stopped(*args, **kwargs):
        head = real(*args, **kwargs)
        head.interrupted = True  # as Ctrl-C leaves it
        return head

    monkeypatch.setattr(retrofit, "fit_head", stopped)
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    arguments = ["--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html", "--rotate"]
    assert run(*arguments) == 130 and not (tmp_path / "p.html").exists()


def test_one_folder_is_enough_to_rotate(tmp_path):
    twins = make_twins()
    twins.regular.save(str(tmp_path / "models" / "regular"), create_model_card=False)
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    arguments = ["--corpus", tmp_path / "a.txt", "--out", tmp_path / "p.html"]
    assert run(*arguments, "--models", tmp_path / "models", "--rotate") == 0
    assert run(*arguments, "--models", tmp_path / "models") == 2


# ------------------------------------------------------------------------------- documentation


@pytest.mark.parametrize("limit", [1, 4, 7])
def test_a_small_corpus_of_documentation_has_queries_of_its_own(tmp_path, limit, monkeypatch):
    rows = {
        "name": [f"f{i}" for i in range(60)],
        "summary": [f"Summary {i} of it." for i in range(60)],
        "description": SENTENCES[:60],
    }
    monkeypatch.setattr("mrl_course.data.load_docstrings", lambda: rows)
    learnt = learnt_pairs(monkeypatch)
    corpus = demo.docstring_demo(limit).corpus
    assert len(corpus.texts) == limit and len(corpus.queries) == -(-limit // 5)
    assert len(learnt) == 60 - len(corpus.queries)
    page = data_of(demo.build_demo(make_twins(), corpus, tmp_path / "p.html"))
    assert not any("first words" in line for line in page["about"])


# --------------------------------------------------------------------------------- in notebooks


def test_addresses_of_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = demo.build_demo(make_twins(), SENTENCES[:9], tmp_path / "new folder" / "a#b?c.html")
    address = 'src="new%20folder/a%23b%3Fc.html"'
    assert address in demo.show_page(page).data
    assert address in demo.show_page(page.relative_to(tmp_path)).data
    elsewhere = tmp_path / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(WrongValue, match="outside .*build/demo.html, or pass embed=True"):
        demo.show_page(page)
    assert 'src="../new%20folder/' in demo.show_page("../new folder/a#b?c.html").data
    assert "srcdoc=" in demo.show_page(page, embed=True).data
    monkeypatch.setitem(sys.modules, "google.colab", demo)
    assert "srcdoc=" in demo.show_page(page).data
    assert "srcdoc=" not in demo.show_page("../new folder/a#b?c.html", embed=False).data
    with pytest.raises(WrongValue, match="height"):
        demo.show_page(page, height=0)
