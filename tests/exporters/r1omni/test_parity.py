"""Torch and ONNX Runtime answer what the reference answered, and a wrong model would be caught."""

import numpy as np
import pytest
import torch
from torch import nn

from exporters.__main__ import main
from exporters.r1omni import (
    attach,
    checkpoint,
    decoder,
    export,
    golden,
    layers,
    parts,
    static,
    verify,
    vision,
)
from exporters.r1omni.golden import TOLERANCE, Golden
from pipeline.explain import manifest


@pytest.fixture(scope="module")
def expected(folder):
    """What an unspoilt model answers."""
    return verify.reference(checkpoint.load(folder), seed=1)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert main(["r1omni", str(folder), str(out), "--verify"]) == 0
    return out


def _worst(model_parts, expected):
    return max(
        comparison.difference for comparison in verify.against_golden(model_parts, expected, "it")
    )


def test_the_reference_code_is_reproduced(goldens, tmp_path, capsys):
    source = goldens / "R1-Omni-0.5B"
    file = goldens / "golden.npz"
    assert main(["r1omni", str(source), str(tmp_path), "--verify", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("pass") and "(tolerance 1e-05)" in line for line in lines)
    assert len(manifest.read(tmp_path).parity) == 12


def test_a_wrong_golden_file_fails_with_its_worst_array(goldens, tmp_path, capsys):
    held = Golden.read(goldens / "golden.npz").arrays
    spoilt = {**held, "audio_tokens": held["audio_tokens"] + np.float32(1e-4)}
    np.savez(tmp_path / "spoilt.npz", **spoilt)
    arguments = ["r1omni", str(goldens / "R1-Omni-0.5B"), str(tmp_path / "out")]
    assert main([*arguments, "--verify", str(tmp_path / "spoilt.npz")]) == 1
    printed = capsys.readouterr()
    assert "FAIL  onnx fp32  audio_tokens" in printed.out
    assert "audio_tokens: largest difference" in printed.err


def test_the_files_answer_what_torch_answers(exported, expected):
    files = verify.OrtParts(exported, manifest.read(exported))
    assert _worst(files, expected) <= TOLERANCE


def test_any_number_of_frames_and_positions_goes(exported, model):
    """Free axes are free: one frame, no past, one new row, several rows of a batch."""
    torch_parts = verify.TorchParts(model)
    files = verify.OrtParts(exported, manifest.read(exported))
    noise = np.random.default_rng(3)
    probs = np.array([0.2, 0.3, 0.5], np.float32)
    for frames in (1, 2, 5):
        pixels = noise.uniform(-1, 1, (frames, 3, 64, 64)).astype(np.float32)
        wanted, got = torch_parts.vision(pixels, probs), files.vision(pixels, probs)
        assert got.shape == (frames * 4, 32)
        assert np.abs(wanted - got).max() <= TOLERANCE
    row = noise.standard_normal((1, 1, 32)).astype(np.float32)
    for chosen in (np.array([0]), np.array([0, 0])):
        wanted, _ = torch_parts.decode(row, chosen, torch_parts.empty_cache())
        got, _ = files.decode(row, chosen, files.empty_cache())
        assert np.abs(wanted - got).max() <= TOLERANCE


def test_each_branch_by_itself(exported, model):
    """The sum of three branches hides a fault in one: look at each."""
    torch_parts, files = (
        verify.TorchParts(model),
        verify.OrtParts(exported, manifest.read(exported)),
    )
    pixels = np.random.default_rng(4).uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
    for branch in np.eye(3, dtype=np.float32):
        assert np.abs(torch_parts.vision(pixels, branch) - files.vision(pixels, branch)).max() <= (
            TOLERANCE
        )


def test_tokens_of_a_frame_depend_on_it_and_the_one_before(model):
    torch_parts = verify.TorchParts(model)
    noise = np.random.default_rng(5)
    pixels = noise.uniform(-1, 1, (6, 3, 64, 64)).astype(np.float32)
    probs = np.array([0.2, 0.3, 0.5], np.float32)
    whole = torch_parts.vision(pixels, probs)
    assert np.abs(whole[:12] - torch_parts.vision(pixels[:3], probs)).max() <= 1e-6
    again = torch_parts.vision(pixels[3:], probs)
    assert np.abs(whole[16:] - again[4:]).max() <= 1e-6
    assert np.abs(whole[12:16] - again[:4]).max() > 1e-4  # its predecessor is another one


def _gelu(model):
    model.vision.tower.encoder.layers[0].mlp.forward = lambda x: _erf_mlp(model, x)


def _erf_mlp(model, x):
    mlp = model.vision.tower.encoder.layers[0].mlp
    return mlp.fc2(nn.functional.gelu(mlp.fc1(x)))


def _layer_fewer(model):
    model.vision.tower.encoder.layers = model.vision.tower.encoder.layers[:-1]


def _bias(model):
    model.decoder.layers[0].self_attn.q_proj.bias.data.zero_()


def _gate(model):
    words = model.gate.bert_model.embeddings["word_embeddings"].weight
    words.data = words.data.roll(1, 0)


def _theta(model):
    spec = model.decoder.spec
    theta = decoder.DecoderSpec(
        **{name: getattr(spec, name) for name in spec.__slots__} | {"rope_theta": 1e4}
    )
    model.decoder.spec = theta


def _rms(model):
    for layer in model.decoder.layers:
        layer.input_layernorm.eps = 1e-5


def _siglip_eps(model):
    for layer in model.vision.tower.encoder.layers:
        layer.layer_norm1.eps = 1e-5


def _whisper_layer(model):
    model.audio.tower.layers = model.audio.tower.layers[:-1]


def _embedding_of_its_own(model):
    model.head.weight.data *= 1.001


@pytest.mark.parametrize(
    "fault",
    [
        _gelu, _layer_fewer, _bias, _gate, _theta, _rms, _siglip_eps, _whisper_layer,
        _embedding_of_its_own,
    ],
)  # fmt: skip
def test_a_fault_is_caught(model, expected, fault):
    assert _worst(verify.TorchParts(model), expected) <= TOLERANCE
    fault(model)
    assert _worst(verify.TorchParts(model), expected) > TOLERANCE


def test_a_wrong_norm_in_the_projector_is_caught(model, expected, monkeypatch):
    monkeypatch.setattr(vision, "NORM2D_EPS", 1e-6)
    assert _worst(verify.TorchParts(model), expected) > TOLERANCE


def test_attention_that_sees_the_future_is_caught(model, expected, monkeypatch):
    monkeypatch.setattr(decoder, "MASKED", 0.0)
    assert _worst(verify.TorchParts(model), expected) > TOLERANCE


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (_gelu, "video"),
        (_layer_fewer, "video"),
        (_bias, "logits"),
        (_theta, "logits"),
        (_rms, "logits"),
    ],
)
def test_the_reference_s_own_arrays_catch_it_too(goldens, fault, seen):
    model = checkpoint.load(goldens / "R1-Omni-0.5B")
    fault(model)
    held = Golden.read(goldens / "golden.npz")
    failed = [
        each.name
        for each in verify.against_golden(verify.TorchParts(model), held, "it")
        if not each.passed
    ]
    assert any(seen in name for name in failed)


def test_half_precision_keeps_its_direction_and_tells_what_it_loses(folder, tmp_path, capsys):
    code = main(["r1omni", str(folder), str(tmp_path), "--precision", "fp16", "--verify"])
    assert code == 0
    assert all(line.startswith("pass") for line in capsys.readouterr().out.splitlines())
    made = manifest.read(tmp_path)
    assert made.graphs["gate"].precision == "fp32"
    assert made.graphs["decoder"].precision == "fp16"
    assert made.embedding.dtype == "float16"


def test_weights_that_half_precision_cannot_hold_are_named():
    linear = nn.Linear(2, 2)
    linear.weight.data[:] = torch.tensor([[1e5, 1.0], [1e-9, 0.0]])
    rounding = parts.Rounding()
    parts.cast(linear, "fp16", rounding)
    assert (rounding.overflown, rounding.vanished) == (1, 1)
    assert "use fp32" in rounding.sentences()[0]


def test_norms_have_fp32_statistics_in_half_precision():
    """Squares of a few hundred overflow fp16; the norm must not."""
    norm = layers.LayerNorm(8, eps=1e-5).half()
    x = torch.tensor([[795.0, -795.0, 400.0, 0.0, 1.0, -3.0, 60.0, -400.0]])
    wanted = nn.functional.layer_norm(x, (8,))
    assert torch.allclose(norm(x.half()).float(), wanted, atol=2e-3)
    root = layers.RMSNorm(8, 1e-6)
    root.weight = nn.Parameter(torch.ones(8).half())
    wanted = x / x.pow(2).mean().sqrt()
    assert torch.allclose(root(x.half()).float(), wanted, atol=2e-3)


def test_graphs_name_their_contract_and_nothing_of_the_machine(exported):
    made = manifest.read(exported)
    assert set(made.graphs) == {"gate", "vision_fusion", "audio", "decoder", "decoder_static"}
    for graph in made.graphs.values():
        data = (exported / graph.file).read_bytes()
        assert b"demeanor.spec" in data
        assert b"site-packages" not in data
    assert set(made.digests) == {
        file.name for file in exported.iterdir() if file.name != manifest.FILE
    }
    assert made.identity.startswith("R1-Omni-0.5B@")


def test_the_head_uses_the_embedding_s_file(exported):
    made = manifest.read(exported)
    assert made.graphs["decoder"].weights == ("embedding.bin",)
    held = np.fromfile(exported / "embedding.bin", np.float32).reshape(300, 32)
    changed = held.copy()
    files = verify.OrtParts(exported, made)
    row = np.random.default_rng(0).standard_normal((1, 1, 32)).astype(np.float32)
    before, _ = files.decode(row, np.array([0]), files.empty_cache())
    changed[7] = 0
    try:
        changed.tofile(exported / "embedding.bin")
        other = verify.OrtParts(exported, made)
        after, _ = other.decode(row, np.array([0]), other.empty_cache())
    finally:
        held.tofile(exported / "embedding.bin")
    assert after[0, 0, 7] == 0
    assert np.array_equal(np.delete(before, 7, -1), np.delete(after, 7, -1))


def test_misuse_is_told(folder, tmp_path, capsys):
    assert main(["r1omni", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert main(["r1omni", str(folder), str(folder)]) == 2
    (tmp_path / "no.npz").write_bytes(b"not arrays")
    wrong = ["--verify", str(tmp_path / "no.npz")]
    assert main(["r1omni", str(folder), str(tmp_path / "out"), *wrong]) == 2
    np.savez(tmp_path / "few.npz", pixels=np.zeros(1))
    few = ["--verify", str(tmp_path / "few.npz")]
    assert main(["r1omni", str(folder), str(tmp_path / "out"), *few]) == 2
    told = capsys.readouterr().err
    assert "is no folder" in told
    assert "checkpoint's own folder" in told
    assert "cannot be read as golden arrays" in told
    assert "lacks mel" in told
    assert not (tmp_path / "out").exists()


def test_spliced_puts_each_modality_in_its_place(model):
    parts = verify.TorchParts(model)
    video, sound = np.full((4, 32), 2.0), np.full((3, 32), 3.0)
    ids = np.array([5, golden.VIDEO, 6, golden.AUDIO, 7])
    rows = golden.spliced(parts, ids, video, sound)
    assert rows.shape == (10, 32)
    assert (rows[1:5] == 2).all()
    assert (rows[6:9] == 3).all()
    assert np.array_equal(rows[[0, 5, 9]], parts.embed(np.array([5, 6, 7])))


def test_a_static_decoder_that_errs_is_left_out(folder, tmp_path, monkeypatch):
    theirs = static.StaticBuilder._angles

    def bent(self):
        theirs(self)
        self.constants["sines"] = self.constants["sines"] * np.float32(1.001)

    monkeypatch.setattr(static.StaticBuilder, "_angles", bent)
    made = export.export(checkpoint.load(folder), folder, tmp_path, "fp32", lambda _: None)
    assert "decoder_static" not in made.graphs
    assert not (tmp_path / "decoder_static.onnx").exists()
    assert any("decoder_static was left out" in warning for warning in made.warnings)


def test_large_weights_lie_once_beside_both_decoders(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(attach, "INLINE_BYTES", 1024)
    made = export.export(checkpoint.load(folder), folder, tmp_path, "fp32", lambda _: None)
    assert made.graphs["decoder"].weights == ("decoder.data", "embedding.bin")
    assert made.graphs["decoder_static"].weights == ("decoder.data", "embedding.bin")
    assert (tmp_path / "decoder_static.onnx").stat().st_size < 1 << 19
    model = checkpoint.load(folder)
    assert _worst(verify.OrtParts(tmp_path, made), verify.reference(model)) <= TOLERANCE
