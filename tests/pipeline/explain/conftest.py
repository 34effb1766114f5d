"""A tiny exported model with a byte-level tokenizer, and an engine over it."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from exporters.r1omni import checkpoint, export
from pipeline.explain import manifest
from pipeline.explain.decoder import PlainDecoder, StaticDecoder
from pipeline.explain.engine import Engine
from pipeline.explain.prompt import INSTRUCTION
from pipeline.session import Session
from services.explain import tokens
from tests.exporters.r1omni import tiny

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are Tiny, made for "
    "tests.<|im_end|>\\n' }}{% endif %}"
)


def byte_tokenizer():
    """A real byte-level BPE of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [INSTRUCTION, "<answer>sad</answer> <answer>fear</answer> <think>angry</think>"]
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def write_model(root):
    """Export a tiny checkpoint with its tokenizers; return the folder."""
    source = tiny.make().write(root)
    byte_tokenizer().save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    out = root / "exported"
    export.export(checkpoint.load(source), source, out, "fp32", lambda _: None)
    return out


def open_engine(folder, kind="plain"):
    """Open every graph; ``kind`` chooses the decoder."""
    made = manifest.read(folder)

    def session(name):
        file = made.graphs[name].file
        return Session((folder / file).read_bytes(), file=file, weights=folder)

    shape = (made.decoder.vocab, made.decoder.hidden)
    embedding = np.memmap(folder / made.embedding.file, made.embedding.dtype, "r", shape=shape)
    dtype = made.embedding.dtype
    decoder = (
        PlainDecoder(session("decoder"), made.decoder, dtype)
        if kind == "plain"
        else StaticDecoder(session("decoder_static"), made.decoder, dtype, 1400)
    )
    return Engine(
        made, session("vision_fusion"), session("audio"), session("gate"), decoder, embedding
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("explain"))


@pytest.fixture(params=["plain", "static"])
def engine(exported, request):
    return open_engine(exported, request.param)


@pytest.fixture
def plain(exported):
    return open_engine(exported)


@pytest.fixture
def static(exported):
    return open_engine(exported, "static")


@pytest.fixture(scope="session")
def tokenizer(exported):
    return tokens.text_tokenizer(exported)
