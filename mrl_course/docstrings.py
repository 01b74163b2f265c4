"""A retrieval corpus that every reader has already: the documentation of installed libraries.

The summary line of a function is a natural query, the description below it is what should be
found. Nothing is downloaded and nothing is stored: the texts are read from the modules
themselves, so they follow the installed versions.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import itertools
import re
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from mrl_course.arguments import check_texts
from mrl_course.errors import DataSourceError

if TYPE_CHECKING:
    from datasets import Dataset

# The modules are listed, not discovered: the corpus must not depend on what else is installed or
# imported, and importing whatever is found opens browsers (antigravity), prints (this) or asks
# for accelerators and optional packages. A module that a version lacks is left out.
LIBRARIES = {
    "matplotlib": """
        matplotlib animation artist axes axis backend_bases bezier cbook cm collections colorbar
        colors container contour dates figure font_manager gridspec image layout_engine legend
        legend_handler lines markers mlab mpl_toolkits.mplot3d offsetbox patches path patheffects
        projections pyplot quiver rcsetup sankey scale spines style table text ticker transforms
        tri units widgets""",
    "numpy": """
        numpy char ctypeslib fft lib.format lib.mixins lib.scimath lib.stride_tricks linalg ma
        polynomial polynomial.chebyshev polynomial.hermite polynomial.hermite_e
        polynomial.laguerre polynomial.legendre polynomial.polynomial polynomial.polyutils
        random rec strings testing""",
    "pandas": """
        pandas api.extensions api.indexers api.interchange api.types api.typing arrays errors
        io.formats.style plotting testing tseries.frequencies tseries.holiday tseries.offsets""",
    "scipy": """
        scipy cluster.hierarchy cluster.vq constants datasets differentiate fft fftpack integrate
        interpolate io io.arff io.wavfile linalg linalg.interpolative ndimage optimize signal
        signal.windows sparse sparse.csgraph sparse.linalg spatial spatial.distance
        spatial.transform special stats stats.contingency stats.mstats stats.qmc
        stats.sampling""",
    "sklearn": """
        sklearn base calibration cluster compose covariance cross_decomposition datasets
        decomposition discriminant_analysis dummy ensemble exceptions feature_extraction
        feature_extraction.image feature_extraction.text feature_selection frozen
        gaussian_process gaussian_process.kernels impute inspection isotonic
        kernel_approximation kernel_ridge linear_model manifold metrics metrics.cluster
        metrics.pairwise mixture model_selection multiclass multioutput naive_bayes neighbors
        neural_network pipeline preprocessing random_projection semi_supervised svm tree utils
        utils.class_weight utils.extmath utils.graph utils.metaestimators utils.multiclass
        utils.random utils.sparsefuncs utils.validation""",
    "stdlib": """
        abc argparse array ast asyncio atexit base64 bdb binascii bisect builtins bz2 cProfile
        calendar cmath cmd code codecs codeop collections collections.abc colorsys compileall
        concurrent.futures configparser contextlib contextvars copy copyreg csv ctypes
        ctypes.util dataclasses datetime dbm decimal difflib dis doctest email email.charset
        email.generator email.header email.headerregistry email.message email.parser
        email.policy email.utils enum errno faulthandler filecmp fileinput fnmatch fractions
        ftplib functools gc getopt getpass gettext glob graphlib gzip hashlib heapq hmac html
        html.parser http http.client http.cookiejar http.cookies http.server imaplib importlib
        importlib.abc importlib.machinery importlib.metadata importlib.resources importlib.util
        inspect io ipaddress itertools json json.decoder json.encoder keyword linecache locale
        logging logging.config logging.handlers lzma mailbox marshal math mimetypes mmap
        modulefinder multiprocessing multiprocessing.connection multiprocessing.managers
        multiprocessing.pool multiprocessing.shared_memory netrc numbers operator optparse os
        os.path pathlib pickle pickletools pkgutil platform plistlib poplib pprint profile
        pstats py_compile pyclbr queue quopri random re reprlib runpy sched secrets select
        selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat
        statistics string struct subprocess symtable sys sysconfig tarfile tempfile textwrap
        threading time timeit token tokenize tomllib trace traceback tracemalloc types typing
        unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request
        urllib.robotparser uuid venv warnings wave weakref webbrowser wsgiref.handlers
        wsgiref.headers wsgiref.simple_server wsgiref.util wsgiref.validate xml.dom.minidom
        xml.dom.pulldom xml.etree.ElementTree xml.sax xml.sax.handler xml.sax.saxutils
        xml.sax.xmlreader xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib zoneinfo""",
    "torch": """
        torch amp autograd autograd.forward_ad autograd.functional autograd.graph
        autograd.profiler cuda distributions distributions.constraints distributions.kl
        distributions.transforms fft func futures fx hub jit library linalg masked
        multiprocessing nested nn nn.attention nn.functional nn.init nn.parallel nn.utils
        nn.utils.parametrizations nn.utils.parametrize nn.utils.prune nn.utils.rnn
        nn.utils.stateless optim optim.lr_scheduler optim.swa_utils overrides profiler
        quasirandom random serialization signal.windows sparse special testing utils.benchmark
        utils.checkpoint utils.data utils.dlpack utils.hooks""",
}

SUMMARY_LENGTH = (15, 200)  # characters
DESCRIPTION_LENGTH = (40, 600)

# Old names of torch.Tensor, one per number type, each with copies of its methods; and two whose
# docstrings Jupyter changes (`input` is its own, figures empty the other), so that a lesson would
# read other rows than a script.
_SKIPPED = re.compile(
    r"input$|torch\.([a-z]+\.)*[A-Z]\w+Tensor\b|matplotlib\.pyplot\.draw_if_interactive$"
)

# Summaries that name another object instead of saying anything.
_STUB = re.compile(
    r"((this is )?(an )?alias|see |\[?deprecated|in-place version|"
    r"same as|undocumented|wrapper for|not implemented|todo|abstract |.*[-=]>)",
    re.IGNORECASE,
)


def load_docstrings(packages: Iterable[str] | None = None) -> Dataset:
    """Load (summary, description) pairs of the public functions, classes and methods.

    Args:
        packages: importable packages or modules to read, ``"stdlib"`` for the standard library;
            ``None`` reads all of :data:`LIBRARIES`. Of a package that is not in this table, only
            the names in the package itself are read; name its modules to read more.

    Returns:
        A data set with the string columns ``name`` (the shortest public name), ``summary`` (one
        line of at most 200 characters), ``description`` (at most 600 characters), ``library``
        and ``module``, sorted by name. No object and no summary comes twice. The same versions
        of the libraries give the same rows.

    Raises:
        DataSourceError: a package cannot be imported, or nothing in it is documented.
        TypeError: ``packages`` is no list of strings.
    """
    from datasets import Dataset

    if isinstance(packages, str):
        raise DataSourceError(f"packages must be a list of names: write [{packages!r}].")
    chosen = LIBRARIES if packages is None else check_texts("packages", packages)
    return Dataset.from_dict(_columns(tuple(sorted(set(chosen)))))


@lru_cache(maxsize=8)
def _columns(packages: tuple[str, ...]) -> dict[str, list[str]]:
    """The finished columns; kept, for reading all libraries takes seconds."""
    found: dict[int, _Found] = {}
    with _silence():
        for package in packages:
            for library, module_name in _modules(package):
                module = cast(types.ModuleType, _import(module_name))  # _modules has seen it
                for candidate in _public_objects(library, module_name, module):
                    known = found.get(id(candidate.object))
                    if known is None or candidate.rank < known.rank:
                        found[id(candidate.object)] = candidate
    rows: dict[str, tuple[str, ...]] = {}
    for item in sorted(found.values(), key=lambda item: item.rank):
        doc = getattr(item.object, "__doc__", None)
        if not isinstance(doc, str) or doc == type(item.object).__doc__:  # that of its class
            continue
        pair = split_docstring(doc)
        if pair is not None:
            summary, description = pair
            row = (item.name, summary, description, item.library, item.module)
            rows.setdefault(summary.lower().rstrip("."), row)
    if not rows:
        raise DataSourceError(
            f"No documented function or class in {', '.join(packages) or 'an empty list'}. Name "
            f"other packages, or leave packages= out. (python -OO removes all docstrings.)"
        )
    columns = zip(*sorted(rows.values()), strict=True)
    names = ("name", "summary", "description", "library", "module")
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


# --- finding the objects -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    object: object  # kept alive, so that its id stays its own
    name: str
    library: str
    module: str
    inherited: bool = False

    @property
    def rank(self) -> tuple[bool, int, bool, str]:
        """The class that defines a method comes first, then the shortest name."""
        at_home = getattr(self.object, "__module__", None) == self.module
        return self.inherited, len(self.name), not at_home, self.name


def _modules(package: str) -> Iterator[tuple[str, str]]:
    """The (library, module) pairs to read for one of ``packages``."""
    root = package.split(".")[0]
    if package != "stdlib" and _import(package) is None:
        raise DataSourceError(
            f"There is no package {package!r} to read docstrings from. Install it, correct "
            f"the name, or use one of {', '.join(LIBRARIES)}."
        )
    if package not in LIBRARIES:
        yield ("stdlib" if root in sys.stdlib_module_names else root), package
        return
    for name in LIBRARIES[package].split():
        whole = package == "stdlib" or name == package or name.startswith("mpl_toolkits")
        module_name = name if whole else f"{package}.{name}"
        if _import(module_name) is not None:
            yield package, module_name


def _import(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # absent in this version, or it needs something that is not here
        return None


def _public_objects(library: str, module_name: str, module: types.ModuleType) -> Iterator[_Found]:
    prefix = "" if module_name == "builtins" else f"{module_name}."
    for name in sorted(getattr(module, "__all__", None) or vars(module)):
        with contextlib.suppress(Exception):  # names that refuse to be looked at
            member = getattr(module, name)
            if name.startswith("_") or _SKIPPED.match(prefix + name):
                continue
            if _belongs(member, library):
                yield _Found(member, prefix + name, library, module_name)
                if isinstance(member, type):
                    yield from _methods(library, module_name, prefix + name, member)


def _methods(library: str, module: str, class_name: str, cls: type) -> Iterator[_Found]:
    hidden: set[str] = set()  # by a method of the same name in a class before
    for owner in inspect.getmro(cls):
        if owner is object or not _belongs(owner, library):
            continue
        for name, raw in sorted(vars(owner).items()):
            if name.startswith("_") or name in hidden:
                continue
            hidden.add(name)
            member = getattr(raw, "__func__", raw)  # behind staticmethod and classmethod
            # What another library patched in (as transformers does with Logger) is there or not,
            # depending on what was imported before.
            if _belongs(member, library) and not isinstance(member, type):
                yield _Found(member, f"{class_name}.{name}", library, module, owner is not cls)


def _belongs(member: object, library: str) -> bool:
    """Whether a callable was made by the library, not imported from elsewhere."""
    if not callable(member):
        return False
    root = str(getattr(member, "__module__", None) or "").split(".")[0]
    if library == "stdlib":
        return root == "" or root in sys.stdlib_module_names
    return root in ("", library, *(["mpl_toolkits"] if library == "matplotlib" else []))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No warning of a deprecated module and no greeting may reach a notebook."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield


# --- cleaning the text ---------------------------------------------------------------------------

_FIELD = re.compile(r":[\w ]+:")
_UNDERLINE = re.compile(r"\s*([-=~^])\1{2,}\s*$")
_HEADER = re.compile(
    r"\s*((args?|arguments?|parameters?|returns?|yields?|raises?|keyword arg\w*):.*|"
    r"(examples?|notes?|shape|inputs?|outputs?|attributes|references|warnings?|see also|usage|"
    r"options?)\s*::?)$",
    re.IGNORECASE,
)
_MARKUP = [
    (re.compile(r"(\[[\w-]+\])_"), r"\1"),  # citations
    (re.compile(r"\|(\w+)\|"), r"\1"),  # substitutions
    (re.compile(r"(:[\w:+-]+:)?`+([^`<>]+?)\s*<[^`<>]+>`+_*"), r"\2"),  # titled links
    (re.compile(r":[\w:+-]+:`[~!.]*([^`]*)`"), r"\1"),  # roles
    (re.compile(r"``([^`]*)``"), r"\1"),
    (re.compile(r"`[~!.]*([^`]*)`_*"), r"\1"),
    (re.compile(r"(?<![\w*])\*\*([^*\s][^*]*?)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w*])\*([\w][^*,()]*?)\*(?![\w*])"), r"\1"),
    (re.compile(r"::(?=\s|$)"), ":"),
    (re.compile(r"(?m)^\s*[-*•]\s+"), ""),  # bullets
]
# The space between two sentences; not after a single letter or digit ("e.g.", "J.", "1.").
_SENTENCE_END = re.compile(r"(?<![.\s(]\w[.!?])(?<!^\w[.!?])(?<=[.!?:])\s+(?=[A-Z\"'(])")
# Sentences that say nothing alone: LaTeX, ends before a formula or code, boilerplate.
_USELESS = re.compile(
    r".*\\[a-zA-Z|{]|.*(:|,|\b(and|are|as|by|following|for|if|is|of|that|the|then|to|with))$|"
    r"where |Read more in the |As an instance of the rv_|The documentation is written assuming|"
    r"However, array argument\(s\) of this function|In this case, the array is treated as a|"
    r"Note that calls with zero-size batches|Backwards-compatibility for this API|"
    r"Array API Standard Support|New code should use the numpy.random|"
    r"This is the pyplot wrapper for|Please consider testing these features by setting|"
    r"The following combinations of backend|To shift (and/or scale the )?distribution|See dev-|"
    r"To shift and/or scale the|The probability (density|mass function) above is defined in|"
    r"Note that shifting the location of a distribution|See glossary entry|This method is depre"
)
_NOTE = re.compile(r"(?m)^\.\. (note|warning|important|tip|hint)::[ ]*\n?((?:(?:[ ]+[^\n]*)?\n)*)")
_TABLE = re.compile(r"\s*[-=+|]{2,}([ +|][-=+| ]+)+$")


def split_docstring(doc: str) -> tuple[str, str] | None:
    """Split a docstring into (summary, description) as plain text; None if it has not both.

    The summary is the first sentence. The description is the prose that follows, up to the
    first section such as ``Parameters``; code, formulas, tables and directives are left out.
    Where there is too little of it, the sections ``Notes`` and then ``Returns`` help out.
    """
    doc = doc.encode("utf-8", "replace").decode()  # half a character cannot be kept in a data set
    text = _without_signature(inspect.cleandoc(doc))
    text = _NOTE.sub(lambda match: inspect.cleandoc(match[2]) + "\n\n", text + "\n")
    sentences = _sentences(_prose(text))
    if not sentences:
        return None
    summary, *rest = sentences
    for title in ("Notes", "Returns"):
        if len(" ".join(rest)) < DESCRIPTION_LENGTH[0]:
            rest += _sentences(_prose(_section(text, title)))
    description = _shorten(" ".join(rest), DESCRIPTION_LENGTH[1])
    good = (
        SUMMARY_LENGTH[0] <= len(summary) <= SUMMARY_LENGTH[1]
        and len(summary.split()) >= 3
        and not _STUB.match(summary)
        and DESCRIPTION_LENGTH[0] <= len(description)
        and description != summary
    )
    return (summary, description) if good else None


def _prose(text: str) -> Iterator[str]:
    """The paragraphs before the first section, without code, directives, tables and fields."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if block.startswith((" ", "\t")):  # code, or the body of a directive
            continue
        lines = block.splitlines()
        end = next((i for i, line in enumerate(lines) if _HEADER.match(line)), len(lines))
        if (end == 0 and block) or any(map(_UNDERLINE.match, lines)):
            return
        prose = not block.startswith(("..", "|")) and not _FIELD.match(block)
        if prose and not any(map(_TABLE.match, lines)):
            yield "\n".join(itertools.takewhile(lambda line: ">>>" not in line, lines[:end]))
        if end < len(lines):
            return


def _section(text: str, title: str) -> str:
    """The text below a numpydoc heading, without the lines that only name a value's type."""
    match = re.search(rf"(?ms)^{title}\n-+\n(.*?)(?=^[^\n]+\n[-=]{{3,}}\n|\Z)", text)
    if match is None:
        return ""
    if title == "Notes":
        return match[1]
    return "\n".join(line.strip() for line in match[1].splitlines() if line.startswith(" "))


def _without_signature(text: str) -> str:
    """Drop the call signatures with which docstrings of compiled functions start."""
    while match := re.match(r"[\w.]+ ?\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        rest = re.match(r"\s*(--?>[^\n]*)?(\n|$)", text[end:])
        if not rest:
            break
        text = inspect.cleandoc(text[end + rest.end() :])
    return text


def _sentences(blocks: Iterable[str]) -> list[str]:
    """The sentences of some paragraphs as plain text, without those that say nothing alone."""
    sentences = []
    for block in blocks:
        for pattern, replacement in _MARKUP:
            block = pattern.sub(replacement, block)
        sentences += _SENTENCE_END.split(" ".join(block.split()))
    return [sentence for sentence in sentences if sentence and not _USELESS.match(sentence)]


def _shorten(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    cut = text[: length - 2]
    end = max(cut.rfind(". "), cut.rfind("! "), cut.rfind("? "))
    return cut[: end + 1] if end > length // 2 else cut[: cut.rfind(" ")] + " …"
