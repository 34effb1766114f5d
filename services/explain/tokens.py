"""Tokenizers of an exported folder, by the ``tokenizers`` library."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from pipeline.errors import ModelRefused
from pipeline.explain.prompt import Token

GATE_IDS = 512
"""BERT has no more positions."""


class TextTokenizer:
    """The language model's byte-level BPE; adds no special token by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[Token]:
        """Split ``text``; offsets count characters."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [
            Token(number, start, end)
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ``ids``, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class GateTokenizer:
    """BERT's WordPiece: lower case, ``[CLS]`` and ``[SEP]`` around."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of an instruction, cut to what BERT can take."""
        return list(self._tokenizer.encode(text).ids)[:GATE_IDS]


def text_tokenizer(folder: Path) -> TextTokenizer:
    """Read ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.

    Raises :class:`ModelRefused` naming the files that are wanted.
    """
    whole = folder / "tokenizer.json"
    try:
        if whole.is_file():
            return TextTokenizer(Tokenizer.from_file(str(whole)))
        return TextTokenizer(_bpe(folder))
    except ModelRefused:
        raise
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder}: the tokenizer cannot be read ({error})") from None
    except Exception as error:  # the library raises bare Exceptions  # noqa: BLE001
        raise ModelRefused(f"{folder}: the tokenizer is damaged ({error})") from None


def _bpe(folder: Path) -> Tokenizer:
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.is_file() and merges.is_file()):
        raise ModelRefused(
            f"{folder} has no tokenizer.json, and no vocab.json with merges.txt: copy the "
            "tokenizer files of the checkpoint into it"
        )
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = config(folder).get("added_tokens_decoder", {})
    tokenizer.add_special_tokens([each["content"] for each in added.values()])
    return tokenizer


def gate_tokenizer(folder: Path) -> GateTokenizer:
    """Read ``bert-tokenizer.json`` or ``bert-vocab.txt``. Raises :class:`ModelRefused`."""
    whole, vocab = folder / "bert-tokenizer.json", folder / "bert-vocab.txt"
    if whole.is_file():
        return GateTokenizer(Tokenizer.from_file(str(whole)))
    if vocab.is_file():
        return GateTokenizer(BertWordPieceTokenizer(str(vocab), lowercase=True))
    raise ModelRefused(
        f"{folder} has no tokenizer for the gate: export again with --bert DIR, the folder of "
        "bert-base-uncased with vocab.txt or tokenizer.json"
    )


def config(folder: Path) -> dict[str, Any]:
    """Return ``tokenizer_config.json``, empty when there is none."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelRefused(f"{file} is not JSON ({error}): fetch it again") from None
    return read


def chat_template(folder: Path) -> str | None:
    """Return the checkpoint's own chat template, from either place it may stand."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = config(folder).get("chat_template")
    if isinstance(template, list):
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return template if isinstance(template, str) else None
