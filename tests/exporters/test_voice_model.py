"""A tiny random network: exported, compared, broken on purpose; and the training loop itself."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed: pip install demeanor[export]")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install demeanor[export]")

from exporters import voice  # noqa: E402  after the skips
from exporters.voice import augment, checkpoint, command, measure, pack  # noqa: E402
from exporters.voice.checkpoint import Checkpoint  # noqa: E402
from exporters.voice.data import SPEEDS, Corpus  # noqa: E402
from exporters.voice.export import export, verify  # noqa: E402
from exporters.voice.frontend import CONTEXT, FEATURES, FrontEnd  # noqa: E402
from exporters.voice.layouts import Clip  # noqa: E402
from exporters.voice.model import Scorer, Shape, VoiceNet  # noqa: E402
from exporters.voice.train import Recipe, draw_weights, infer, train  # noqa: E402
from pipeline.errors import ParityError, UsageError  # noqa: E402
from pipeline.layouts import Take  # noqa: E402
from pipeline.session import Session, open_session  # noqa: E402
from pipeline.spec import LABELS  # noqa: E402

torch.set_num_threads(1)
TINY = Shape(mel=(4, 6, 8), low=(4, 6), time=12, dilations=(1,))
SHORT = Recipe(epochs=2, clips_per_epoch=128, batch=16, frames=(60, 80), shape=TINY, half=False)


@pytest.fixture(scope="module")
def net() -> VoiceNet:
    torch.manual_seed(3)
    made = VoiceNet(TINY)
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
    return made.eval()


@pytest.fixture(scope="module")
def files(net: VoiceNet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export([net], tmp_path_factory.mktemp("voice"), temperature=1.3, validation="nobody")


def rows(frames: int, seed: int, tilt: float = 0.0) -> NDArray[np.float16]:
    rng = np.random.default_rng(seed)
    slope = tilt * np.linspace(-1, 1, FEATURES)
    return (rng.normal(-4, 1, (frames, FEATURES)) + slope).astype(np.float16)


def corpus_of(labels: list[int]) -> Corpus:
    """Clips whose spectrum leans one way for label 0 and the other way for label 1."""
    clips = [
        Clip(Path(f"{k}.wav"), Take("a" if k % 4 else "b", LABELS[label], str(k % 3)))
        for k, label in enumerate(labels)
    ]
    features = tuple(
        tuple(rows(90 + k % 7, k, 2.0 - 4.0 * label) for k, label in enumerate(labels))
        for _ in SPEEDS
    )
    return Corpus(tuple(clips), np.array(labels, np.int64), features)


def test_both_graphs_together_equal_torch_on_the_whole(
    net: VoiceNet, files: tuple[Path, Path]
) -> None:
    first, second = (path.read_bytes() for path in files)
    assert verify(first, second, FrontEnd(), pack.packed(Scorer([net], 1.3))) <= 1e-5


def test_another_temperature_is_found_out(net: VoiceNet, files: tuple[Path, Path]) -> None:
    first, second = (path.read_bytes() for path in files)
    with pytest.raises(ParityError, match="probabilities: largest difference"):
        verify(first, second, FrontEnd(), pack.packed(Scorer([net], 1.4)))


def test_nothing_is_written_when_parity_fails(
    net: VoiceNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.voice.export.TOLERANCE", -1.0)
    with pytest.raises(ParityError):
        export([net], tmp_path / "out", temperature=1.0)
    assert not (tmp_path / "out").exists()


def test_the_contracts(files: tuple[Path, Path]) -> None:
    features, emotion = (open_session(path).spec for path in files)
    assert (features.kind, features.context_samples) == ("voice-features", CONTEXT)
    assert CONTEXT <= 2240
    assert (emotion.kind, emotion.labels, emotion.temperature) == ("voice-emotion", LABELS, 1.3)
    assert emotion.validation == "nobody"


def score(session: Session, features: NDArray[np.float32], mask: NDArray[np.float32]):
    return session.run(None, {"features": features, "mask": mask})[0]


def test_the_gain_of_the_microphone_changes_nothing(files: tuple[Path, Path]) -> None:
    session = open_session(files[1])
    features, mask = rows(200, 5)[None].astype(np.float32), np.ones((1, 200), np.float32)
    quiet = score(session, features - 3.0, mask)
    assert np.abs(score(session, features, mask) - quiet).max() < 1e-5
    assert quiet.sum() == pytest.approx(1.0, abs=1e-5)


def test_masked_frames_have_no_say(files: tuple[Path, Path]) -> None:
    session = open_session(files[1])
    features, mask = rows(200, 5)[None].astype(np.float32), np.ones((1, 200), np.float32)
    mask[:, 120:] = 0.0
    other = features.copy()
    other[:, 120:] = rows(80, 9, 3.0)
    assert np.abs(score(session, features, mask) - score(session, other, mask)).max() < 1e-6


@pytest.mark.parametrize("frames", [1, 3, 50, 199, 200])
def test_any_length_and_silence_are_answered(files: tuple[Path, Path], frames: int) -> None:
    session = open_session(files[1])
    silence = np.full((2, frames, FEATURES), np.log(1e-8), np.float32)
    mask = np.ones((2, frames), np.float32)
    mask[1] = 0.0  # nothing to judge at all
    answer = score(session, silence, mask)
    assert np.abs(answer.sum(axis=1) - 1.0).max() < 1e-5


def test_training_learns_and_repeats() -> None:
    corpus = corpus_of([k % 2 for k in range(40)])
    chosen = np.arange(32)
    losses: list[float] = []
    gentle = augment.Strength(equaliser_nat=0.1, noise=0.0, mixup=0.0)
    recipe = replace(SHORT, epochs=3, peak_rate=1e-2, average=0.8, strength=gentle)
    net = train(corpus, chosen, recipe, report=lambda _epoch, loss, _net: losses.append(loss))
    again = train(corpus, chosen, recipe)
    assert losses[-1] < losses[0]
    logits = infer(net, [corpus.features[0][k] for k in range(32, 40)])
    assert np.array_equal(logits, infer(again, [corpus.features[0][k] for k in range(32, 40)]))
    assert measure.figures(logits, corpus.labels[32:]).uar == 1.0


def test_training_goes_on_from_a_network(net: VoiceNet) -> None:
    corpus = corpus_of([0, 1] * 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    slow = replace(SHORT, epochs=1, clips_per_epoch=16, peak_rate=1e-9)
    after = train(corpus, np.arange(16), slow, start=net).state_dict()
    weight = "head.2.weight"
    assert torch.allclose(after[weight], before[weight], atol=1e-6)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_classes_are_drawn_alike_within_a_corpus() -> None:
    corpus = corpus_of([0] * 30 + [1] * 10)
    weights = draw_weights(corpus, np.arange(40), 1.0)
    names = np.array([clip.take.corpus for clip in corpus.clips])
    for name, clips in (("a", 30), ("b", 10)):
        for label in (0, 1):
            assert weights[(names == name) & (corpus.labels == label)].sum() == pytest.approx(
                clips / 40 / 2
            )


def test_two_networks_vote(net: VoiceNet) -> None:
    torch.manual_seed(8)
    other = VoiceNet(TINY).eval()
    features, mask = torch.from_numpy(rows(60, 2)[None].astype(np.float32)), torch.ones(1, 60)
    both = Scorer([net, other], 1.0).eval().logits(features, mask)
    assert torch.allclose(both, (net(features, mask) + other(features, mask)) / 2)


def test_packing_moves_no_answer_far(net: VoiceNet, files: tuple[Path, Path]) -> None:
    scorer = Scorer([net], 1.3).eval()
    small = pack.packed(scorer)
    features, mask = torch.from_numpy(rows(200, 5)[None].astype(np.float32)), torch.ones(1, 200)
    assert 0.0 < pack.moved(scorer, small, features, mask) < 2e-3
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in small.modules())
    kinds = {t.data_type for t in onnx.load(files[1]).graph.initializer}
    assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT} <= kinds


def test_calibration_is_fitted_on_those_held_out(net: VoiceNet) -> None:
    corpus = corpus_of([0, 1] * 12)
    made = command.calibrated(Checkpoint((net,), 1.0, ("a/1",), None), corpus)
    assert made.validation is not None
    assert made.validation.startswith("speakers never trained on (a/1): a WAR")
    assert f"temperature {made.temperature:.2f}" in made.validation
    assert made.offset == (0.0,) * 7
    several = command.calibrated(Checkpoint((net,), 1.0, ("a/1", "a/2"), None), corpus)
    assert any(several.offset)
    assert f"offset {several.offset[0]:+.2f}" in str(several.validation)


def test_an_offset_is_part_of_the_graph(net: VoiceNet, tmp_path: Path) -> None:
    offset = tuple(0.1 * k for k in range(7))
    plain, bent = (
        export([net], tmp_path / name, temperature=1.3, offset=values)[1]
        for name, values in (("plain", ()), ("bent", offset))
    )
    features, mask = rows(120, 4)[None].astype(np.float32), np.ones((1, 120), np.float32)
    before, after = (score(open_session(path), features, mask)[0] for path in (plain, bent))
    wanted = before * np.exp(offset)
    assert np.abs(after - wanted / wanted.sum()).max() < 1e-5


def test_checkpoints_come_back(net: VoiceNet, tmp_path: Path) -> None:
    offset = (0.5, *[0.0] * 6)
    checkpoint.save(Checkpoint((net,), 1.2, ("a/1",), "said", offset), tmp_path / "net.pt")
    back = checkpoint.load(tmp_path / "net.pt")
    assert (back.temperature, back.held, back.validation) == (1.2, ("a/1",), "said")
    assert back.offset == offset
    assert np.array_equal(infer(net, [rows(50, 1)]), infer(back.nets[0], [rows(50, 1)]))
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="no checkpoint of the voice recipe"):
        checkpoint.load(tmp_path / "bad.pt")


def test_joined_runs_hold_out_what_all_held_out(net: VoiceNet) -> None:
    one = Checkpoint((net,), 1.0, ("a/1", "a/2"), "one")
    two = Checkpoint((net,), 2.0, ("a/2", "b/0"), "two", (0.5, *[0.0] * 6))
    both = checkpoint.joined([one, two])
    assert (len(both.nets), both.temperature, both.held) == (2, 1.5, ("a/2",))
    assert both.offset == (0.25, *[0.0] * 6)
    assert checkpoint.joined([one]) is one


def test_an_unknown_speaker_is_named() -> None:
    corpus = corpus_of([0, 1])
    assert command.held_out(corpus.clips, "a/1").tolist() == [False, True]
    with pytest.raises(UsageError, match=r"no clips of a/9: the speakers are a/1, b/0"):
        command.held_out(corpus.clips, "a/9")


def test_augmented_batches_stay_sound() -> None:
    generator = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(1)
    strength = augment.Strength(masks=1.0, reverb=1.0, noise=1.0, mixup=0.4)
    cut = [augment.crop(rows(n, n), 100, strength, rng) for n in (20, 100, 400, 90)]
    features, mask = augment.collate(cut, 100)
    targets = torch.eye(7)[:4]
    changed = augment.augment(features, mask, strength, generator)
    mixed, _, soft = augment.mix(changed, mask, targets, strength, rng)
    assert mixed.shape == (4, 100, FEATURES)
    assert torch.isfinite(mixed).all()
    assert torch.allclose(soft.sum(1), torch.ones(4))
    assert not torch.equal(changed, features)
    assert mask.sum(1)[0] < 30


def asked(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    voice.add_arguments(parser)
    return parser.parse_args(list(arguments))


def test_export_only_lets_checkpoints_vote(net: VoiceNet, tmp_path: Path) -> None:
    for name, temperature in (("one", 1.0), ("two", 1.4)):
        checkpoint.save(Checkpoint((net,), temperature, (), name), tmp_path / f"{name}.pt")
    out = tmp_path / "out"
    parts = [f"--export-only={tmp_path / name}.pt" for name in ("one", "two")]
    assert voice.main(asked(*parts, "--out", str(out))) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "voice-emotion.onnx",
        "voice-features.onnx",
        "voice.pt",
    ]
    assert open_session(out / "voice-emotion.onnx").spec.temperature == 1.2
    calibrated_by = f"--calibrated-by={tmp_path / 'two.pt'}"
    assert voice.main(asked(parts[0], calibrated_by, "--out", str(out))) == 0
    spec = open_session(out / "voice-emotion.onnx").spec
    assert (spec.temperature, spec.validation) == (1.4, "sister networks, two")


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(UsageError, match="name at least one folder"):
        voice.main(asked())


def test_who_was_heard_before_cannot_be_held_out(net: VoiceNet, tmp_path: Path) -> None:
    checkpoint.save(Checkpoint((net,), 1.0, ("a/1",), None), tmp_path / "net.pt")
    corpus = corpus_of([0, 1, 0, 1])
    args = asked(f"--start-from={tmp_path / 'net.pt'}")
    assert len(command._starts(args, corpus, command.held_out(corpus.clips, "a/1"))) == 1
    with pytest.raises(UsageError, match="was trained on a/2"):
        command._starts(args, corpus, command.held_out(corpus.clips, "a/1,a/2"))
