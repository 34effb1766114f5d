"""Label scores and explanations over a real, tiny model; reuse changes no number."""

import numpy as np
import pytest

from pipeline.explain import answers, labels, prompt
from pipeline.explain.engine import Frame

NOISE = np.random.default_rng(1)
PROBS = np.array([0.2, 0.3, 0.5], np.float32)
PIXELS = NOISE.uniform(-1, 1, (12, 3, 64, 64)).astype(np.float32)
SOUND = (NOISE.standard_normal((1, 128, 3000)) / 2).astype(np.float32)


def frames(first, last):
    return [Frame(("call", index), PIXELS[index]) for index in range(first, last)]


@pytest.fixture
def asked(engine, tokenizer):
    """A question that was read, with the shared start of its answers."""
    trie = labels.trie(tokenizer, labels.DFEW)
    built = prompt.build(tokenizer)
    video = engine.see(frames(0, 8), engine.branch_probs([2, 5, 3]))
    _, cache = engine.read(built, video, engine.hear(SOUND))
    return (trie, *engine.write(cache, trie.shared))


def _step_by_step(engine, trie, first, cache, path):
    total, logits = 0.0, first
    for token in path:
        wide = logits.astype(np.float64)
        total += wide[token] - np.log(np.exp(wide - wide.max()).sum()) - wide.max()
        rows, cache = engine.decoder.step(cache, engine.embed([token]), np.array([0]))
        logits = rows[0]
    return total


def test_a_path_s_score_is_the_sum_of_its_steps(engine, asked):
    trie, first, cache = asked
    together = answers.paths(engine, first, cache, trie)
    for score, path in zip(together, trie.paths, strict=True):
        assert abs(score - _step_by_step(engine, trie, first, cache, path)) < 1e-5


def test_scores_are_shares_and_a_prior_is_taken_away(engine, asked):
    trie, first, cache = asked
    raw = answers.paths(engine, first, cache, trie)
    plain = answers.scored(raw, trie, "")
    assert sum(plain.probabilities) == pytest.approx(1)
    assert plain.top == trie.labels[int(np.argmax(raw))]
    assert not plain.prior_removed
    even = answers.scored(raw, trie, "", prior=raw)
    assert np.allclose(even.probabilities, 1 / 7)
    assert even.margin == pytest.approx(0)
    assert even.entropy == pytest.approx(np.log(7))
    assert even.prior_removed


def test_both_decoders_say_the_same(plain, static, tokenizer):
    trie = labels.trie(tokenizer, labels.MAFW)
    built = prompt.build(tokenizer)
    video, sound = plain.see(frames(0, 8), PROBS), plain.hear(SOUND)
    raw = []
    for engine in (plain, static):
        _, cache = engine.read(built, video, sound)
        raw.append(answers.paths(engine, *engine.write(cache, trie.shared), trie))
    assert np.abs(raw[0] - raw[1]).max() < 1e-5


def test_reading_on_is_reading_and_then_writing(engine, tokenizer):
    trie = labels.trie(tokenizer, labels.DFEW)
    built = prompt.build(tokenizer)
    video, sound = engine.see(frames(0, 8), PROBS), engine.hear(SOUND)
    logits, cache = engine.read(built, video, sound)
    first, behind = engine.write(cache, trie.shared)
    length, raw = cache.length, answers.paths(engine, first, behind, trie)
    token = int(np.argmax(logits))
    following, _ = engine.write(cache, [token])
    once, kept, at_once, both = engine.read_on(built, video, sound, trie.shared)
    assert np.abs(once - logits).max() < 1e-5
    assert np.abs(at_once - first).max() < 1e-5
    assert (kept.length, both.length) == (length, behind.length)
    assert np.abs(answers.paths(engine, at_once, both, trie) - raw).max() < 1e-5
    again, _ = engine.write(kept, [token])
    assert np.abs(again - following).max() < 1e-5


def test_branches_of_any_length_are_read_without_what_fills_them_up(plain, static):
    rows = np.random.default_rng(4).standard_normal((3, 4, 32)).astype(np.float32)
    start = np.random.default_rng(5).standard_normal((6, 32)).astype(np.float32)
    lengths = (4, 0, 2)
    read = []
    for decoder in (plain.decoder, static.decoder):
        _, cache = decoder.step(decoder.empty(), start, np.array([5]))
        read.append(decoder.branch(cache, rows, lengths))
        assert decoder.branch(cache, rows, (0, 0, 0)).shape[:2] == (3, 4)
    for place, length in enumerate(lengths):
        assert np.allclose(read[0][place, :length], read[1][place, :length], atol=1e-5)


def test_a_place_in_the_one_cache_ends_when_something_else_is_read_before_it(static, tokenizer):
    built = prompt.build(tokenizer)
    video, sound = static.see(frames(0, 8), PROBS), static.hear(SOUND)
    first, cache = static.read(built, video, sound)
    cache.check()
    again, newer = static.read(built, video, sound)
    assert np.array_equal(first, again)
    newer.check()
    newer.cut(newer.length - 3).check()
    with pytest.raises(RuntimeError, match="overwritten"):
        static.decoder.step(cache, static.embed([1]), np.array([0]))
    assert static.counts.prefixes_reused == 1  # the start of the prompt was not


def test_two_prompts_in_turn_get_their_own_beginnings(engine, tokenizer):
    video, sound = engine.see(frames(0, 8), PROBS), engine.hear(SOUND)
    one, other = (prompt.build(tokenizer, system=words) for words in ("You are one.", "Be brief."))
    first, _ = engine.read(one, video, sound)
    engine.read(other, video, sound)
    again, _ = engine.read(one, video, sound)
    assert np.abs(first - again).max() < 1e-5


def test_a_cache_has_an_end(static):
    rows = np.zeros((static.decoder.capacity + 1, 32), np.float32)
    with pytest.raises(ValueError, match="do not fit a cache of 1400"):
        static.decoder.step(static.decoder.empty(), rows, np.array([0]))


def test_branches_leave_the_cache_alone(engine, asked):
    trie, first, cache = asked
    length = cache.length
    once = answers.paths(engine, first, cache, trie)
    assert cache.length == length
    assert np.array_equal(once, answers.paths(engine, first, cache, trie))


def test_a_cut_cache_is_as_if_nothing_had_followed(plain, tokenizer):
    engine = plain
    built = prompt.build(tokenizer)
    video, sound = engine.see(frames(0, 8), PROBS), engine.hear(SOUND)
    logits, without = engine.read(built, video, sound)
    _, longer = engine.write(without, (9, 8, 7))
    cut = longer.cut(without.length)
    assert cut.length == without.length
    for a, b in zip(cut.arrays, without.arrays, strict=True):
        assert np.abs(a - b).max() < 1e-5
    one, _ = engine.decoder.step(cut, engine.embed([4]), np.array([0]))
    other, _ = engine.decoder.step(without, engine.embed([4]), np.array([0]))
    assert np.abs(one - other).max() < 1e-5
    assert logits.shape == (300,)


def test_pairs_of_frames_are_seen_once(engine):
    whole = engine.see(frames(0, 8), PROBS)
    assert engine.counts.frame_pairs_reused == 0
    again = engine.see(frames(0, 8), PROBS)
    assert engine.counts.frame_pairs_reused == 8
    assert np.array_equal(whole, again)
    moved = engine.see(frames(2, 10), PROBS)
    assert engine.counts.frame_pairs_reused == 8 + 5  # all but the first and the two new ones
    fresh = engine._look(frames(2, 10), PROBS).reshape(moved.shape)
    assert np.abs(moved - fresh).max() < 1e-5
    other = engine.see(frames(0, 8), PROBS[::-1].copy())
    assert np.abs(other - whole).max() > 1e-3  # another instruction weighs other branches


def test_the_gate_and_the_prompt_s_start_are_read_once(engine, tokenizer):
    built = prompt.build(tokenizer)
    video, sound = engine.see(frames(0, 8), PROBS), engine.hear(SOUND)
    first, _ = engine.read(built, video, sound)
    again, _ = engine.read(built, video, sound)
    assert np.array_equal(first, again)
    assert engine.counts.prefixes_reused == 1
    assert np.array_equal(engine.branch_probs([2, 7, 3]), engine.branch_probs([2, 7, 3]))
    assert engine.counts.gates_reused == 1


def test_memory_of_pairs_is_bounded(engine, monkeypatch):
    monkeypatch.setattr("pipeline.explain.engine.FRAME_PAIRS", 4)
    engine.see(frames(0, 8), PROBS)
    assert len(engine._pairs) == 4


def test_a_prompt_with_a_place_for_sound_wants_sound(engine, tokenizer):
    with pytest.raises(ValueError, match="place for sound"):
        engine.read(prompt.build(tokenizer), engine.see(frames(0, 8), PROBS), None)
    engine.read(prompt.build(tokenizer, sound=False), engine.see(frames(0, 8), PROBS), None)


def _explain(engine, tokenizer, **options):
    built = prompt.build(tokenizer)
    first, cache = engine.read(built, engine.see(frames(0, 8), PROBS), engine.hear(SOUND))
    trie = labels.trie(tokenizer, labels.DFEW, answers.FORCED)
    making = answers.Explaining(engine, tokenizer, trie, **options.pop("making", {}))
    return making.run(first, cache, **options)


def test_thinking_is_capped_and_an_answer_is_forced(engine, tokenizer):
    explained = _explain(engine, tokenizer, making={"thinking": 5})
    assert explained.truncated
    assert explained.label in (*labels.DFEW, labels.OTHER)
    assert 5 < explained.tokens <= 5 + answers.ANSWER


def test_a_newer_window_cuts_in(engine, tokenizer):
    left = iter([True] * 3 + [False] * 99)
    assert _explain(engine, tokenizer, wanted=lambda: next(left)) is None


class Scripted:
    """An engine's decoder that writes a given text, whatever it reads."""

    def __init__(self, ids, vocab):
        self.ids = list(ids)
        self.vocab = vocab
        self.read = []

    def step(self, cache, rows, chosen):
        self.read += rows[:, 0].astype(int).tolist()
        return self.next()[None], cache

    def next(self):
        logits = np.zeros(self.vocab, np.float32)
        logits[self.ids.pop(0) if self.ids else 0] = 1
        return logits


def _written(engine, tokenizer, text, answer, thinking=60):
    """Let a scripted decoder think ``text`` and, once the tags are forced, answer ``answer``."""
    spelt = [token.id for token in tokenizer.encode(text)]
    trie = labels.trie(tokenizer, labels.DFEW, answers.FORCED)
    whole = [token.id for token in tokenizer.encode(f"{answers.FORCED}{answer}")]
    unused = 0  # what it would have written, had the tags not been forced
    script = Scripted([*spelt, unused, *whole[len(trie.shared) :]], 300)
    engine.decoder = script
    engine.embedding = np.arange(300, dtype=np.float32)[:, None].repeat(32, 1)
    making = answers.Explaining(engine, tokenizer, trie, thinking=thinking)
    return making.run(script.next(), None)


def test_what_the_model_thinks_and_answers_is_told(engine, tokenizer):
    text = "<think>He shouts.</think>"
    explained = _written(engine, tokenizer, text, "<answer>angry</answer>")
    assert explained.thinking == "He shouts."
    assert (explained.label, explained.raw) == ("angry", "angry")
    assert not explained.truncated


def test_words_of_its_own_are_kept(engine, tokenizer):
    explained = _written(engine, tokenizer, "<think>Hm.</think>", "<answer>bored</answer>")
    assert (explained.label, explained.raw) == ("other", "bored")
    explained = _written(engine, tokenizer, "<think>Hm.</think>", "<answer>anger</answer>")
    assert (explained.label, explained.raw) == ("angry", "anger")


def test_thinking_that_never_ends_is_cut(engine, tokenizer):
    words = "<think>on and on and on"
    count = len(tokenizer.encode(words))
    explained = _written(engine, tokenizer, words, "<answer>sad</answer>", thinking=count)
    assert explained.truncated
    assert explained.thinking == "on and on and on"
    assert explained.label == "sad"
