"""The question and the labels as tokens."""

import pytest

from pipeline.explain import labels, prompt
from pipeline.explain.prompt import Token


def test_chunks_are_tokenised_by_themselves(tokenizer):
    built = prompt.build(tokenizer, system="Be kind.")
    kinds = [part if isinstance(part, str) else "ids" for part in built.parts]
    assert kinds == ["ids", "video", "ids", "audio", "ids"]
    texts = [tokenizer.decode(list(part)) for part in built.parts if not isinstance(part, str)]
    assert texts[0] == "system\nBe kind.\nuser\n<vi_start>"
    assert texts[1] == "<vi_end>\n<au_start>"
    assert texts[2] == f"<au_end>\n{prompt.INSTRUCTION}\nassistant\n"
    assert "?  Output" in prompt.INSTRUCTION
    assert built.before_video == built.parts[0]
    assert built.text_tokens == sum(len(part) for part in built.parts[::2])


def test_without_sound_there_is_no_place_for_it(tokenizer):
    built = prompt.build(tokenizer, sound=False)
    assert [part for part in built.parts if isinstance(part, str)] == ["video"]


@pytest.mark.parametrize(
    ("template", "system"),
    [
        ("{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}",
         "You are a helpful assistant."),
        ("x<|im_start|>system\nYou are Qwen, made by a cloud.<|im_end|>",
         "You are Qwen, made by a cloud."),
        ("{{ '<|im_start|>' + message['role'] }}", prompt.SYSTEM),
        (None, prompt.SYSTEM),
    ],
)  # fmt: skip
def test_the_system_sentence_is_the_checkpoint_s(template, system):
    assert prompt.system_of(template) == system


@pytest.mark.parametrize(
    ("word", "label"),
    [("Anger", "angry"), (" happy.", "happy"), ("fearful", "fear"), ("JOY", "happy"),
     ("contempt", "other"), ("bored", "other"), ("", "other")],
)  # fmt: skip
def test_words_are_normalised(word, label):
    assert labels.normalised(word, labels.DFEW) == label
    assert labels.normalised("contempt", labels.MAFW) == "contemptuous"


@pytest.mark.parametrize("name", labels.SETS)
@pytest.mark.parametrize("prefix", ["", "<think></think>\n"])
def test_paths_spell_the_labels(tokenizer, name, prefix):
    made = labels.trie(tokenizer, labels.SETS[name], prefix)
    for label, path in zip(made.labels, made.paths, strict=True):
        text = tokenizer.decode([*made.shared, *path])
        assert text.startswith(f"{prefix}<answer>{label}<")
        assert f"{prefix}<answer>{label}</answer>".startswith(text)
    assert made.longest == max(map(len, made.paths))


class Fusing:
    """Pieces that fuse over the tag's end, as they do in Qwen's vocabulary."""

    PIECES = ("<answer", ">s", "ad", ">f", "ear", "ful", ">", "happy", "</", "answer>")

    def encode(self, text):
        found, at = [], 0
        while at < len(text):
            piece = next(p for p in self.PIECES if text.startswith(p, at))
            found.append(Token(self.PIECES.index(piece), at, at + len(piece)))
            at += len(piece)
        return found

    def decode(self, ids):
        return "".join(self.PIECES[number] for number in ids)


def test_pieces_that_fuse_with_the_tag_are_not_torn():
    made = labels.trie(Fusing(), ["sad", "fear", "fearful", "happy"])
    assert made.shared == (0,)
    assert made.paths == ((1, 2, 8), (3, 4, 8), (3, 4, 5, 8), (6, 7, 8))
    assert made.allowed(()) == {1: None, 3: None, 6: None}
    assert made.allowed((3, 4)) == {8: "fear", 5: None}
    assert made.allowed((9,)) == {}


def test_labels_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="share one path"):
        labels.trie(Fusing(), ["sad", "sad"])
