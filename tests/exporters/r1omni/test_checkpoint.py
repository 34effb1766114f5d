"""The loader: every layout reads the same, and whatever does not fit is refused with a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporters.r1omni import checkpoint
from exporters.r1omni.checkpoint import Folders
from pipeline.errors import ModelRefused
from tests.exporters.r1omni import tiny


def _weights(model):
    parts = (model.vision, model.audio, model.gate, model.decoder, model.head)
    named = {f"{i}.{n}": p for i, part in enumerate(parts) for n, p in part.named_parameters()}
    return {**named, "embedding": model.embedding}


def _same(one, other):
    a, b = _weights(one), _weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_read_as_one(model, tmp_path, shards):
    assert _same(model, checkpoint.load(tiny.make().write(tmp_path, shards=shards)))


def test_the_public_folders_of_the_towers_are_understood(model, tmp_path):
    loaded = checkpoint.load(tiny.make().write(tmp_path, towers="public"))
    assert _same(model, loaded)
    assert "logit_scale" in loaded.report.ignored
    assert "model.decoder.layer_norm.weight" in loaded.report.ignored


def test_towers_inside_the_checkpoint_do_when_there_are_no_folders(tmp_path, monkeypatch):
    made = tiny.make()
    written = made.write(tmp_path, towers="inside")
    with pytest.raises(ModelRefused, match="nothing tells its number of heads"):
        checkpoint.load(written)
    monkeypatch.setattr(checkpoint, "HEAD", 8)
    loaded = checkpoint.load(written)
    assert loaded.spec.vision == tiny.VISION
    assert loaded.spec.audio == tiny.AUDIO
    assert "inside the checkpoint" in loaded.report.sources["audio"]
    assert "model.audio_tower.audio_tower.classifier.weight" in loaded.report.ignored
    bf16 = made.audio["conv1.weight"].to(torch.bfloat16).float()
    assert torch.equal(loaded.audio.tower.conv1.weight, bf16)


def test_where_both_stand_the_folder_counts_and_the_difference_is_told(model, tmp_path):
    loaded = checkpoint.load(tiny.make().write(tmp_path, towers="both"))
    assert _same(model, loaded)
    told = "".join(loaded.report.warnings)
    assert "differ by up to" in told
    assert "the folder's is used" in told


def test_an_option_names_a_tower(tmp_path):
    written = tiny.make().write(tmp_path)
    (tmp_path / "whisper-large-v3").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused) as refused:
        checkpoint.load(written)
    assert "--audio-tower DIR" in str(refused.value)
    assert str(tmp_path / "whisper-large-v3") in str(refused.value)
    checkpoint.load(written, Folders(audio=tmp_path / "elsewhere"))
    with pytest.raises(ModelRefused, match="there is no such folder"):
        checkpoint.load(written, Folders(audio=tmp_path / "nowhere"))


def test_all_differences_are_listed(tmp_path):
    made = tiny.make()
    del made.tensors["model.layers.1.self_attn.q_proj.bias"]
    made.tensors["model.norm.weight"] = torch.randn(31)
    made.tensors["model.layers.0.extra.weight"] = torch.randn(3)
    made.tensors["somebody.elses"] = torch.randn(3)
    with pytest.raises(ModelRefused) as refused:
        checkpoint.load(made.write(tmp_path))
    told = str(refused.value)
    assert "4 differences" in told
    assert "missing   decoder: layers.1.self_attn.q_proj.bias (32,)" in told
    assert "norm.weight is (31,), expected (32,)" in told
    assert "unknown   decoder: model.layers.0.extra.weight" in told
    assert "unknown   somebody.elses" in told


def test_bert_comes_from_the_checkpoint_or_not_at_all(tmp_path):
    made = tiny.make()
    made.tensors = {n: t for n, t in made.tensors.items() if not n.startswith("model.bert_model")}
    with pytest.raises(ModelRefused, match=r"model\.bert_model\.\* is missing"):
        checkpoint.load(made.write(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mm_projector_type", "all_in_one", "HumanOmni-7B"),
        ("mm_vision_tower", "google/siglip-so400m-patch14-384", "HumanOmni-7B"),
        ("hidden_size", 3584, "HumanOmni-7B"),
        ("mm_projector_type", "mlp2x_gelu", "is this the folder of an R1-Omni"),
        ("mm_projector_type", None, "is this the folder of an R1-Omni"),
        ("mm_vision_select_layer", -1, "mm_vision_select_layer is -1, not -2"),
        ("use_sliding_window", True, "use_sliding_window is True"),
        ("rope_scaling", {"type": "yarn"}, "rope_scaling is"),
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("num_key_value_heads", 3, "cannot share 3 KV heads"),
        ("vocab_size", None, "'vocab_size' is None"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(tmp_path, key, value, words):
    made = tiny.make()
    made.main[key] = value
    with pytest.raises(ModelRefused, match=words):
        checkpoint.load(made.write(tmp_path))


def test_a_compressor_gives_the_large_model_away(tmp_path):
    made = tiny.make()
    made.tensors["model.feature_compressor.vlm_query_projector.0.weight"] = torch.randn(2, 2)
    with pytest.raises(ModelRefused, match="HumanOmni-7B"):
        checkpoint.load(made.write(tmp_path))


def test_an_odd_grid_is_refused(tmp_path):
    made = tiny.make()
    made.siglip["image_size"] = 48
    with pytest.raises(ModelRefused, match="3×3 patches is odd"):
        checkpoint.load(made.write(tmp_path))


def test_wrong_folders_and_damaged_files(tmp_path):
    with pytest.raises(ModelRefused, match=r"has no config\.json"):
        checkpoint.load(tmp_path)
    written = tiny.make().write(tmp_path / "a")
    file = written / "model-00001-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(ModelRefused, match="damaged or cut short"):
        checkpoint.load(written)
    file.rename(written / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="only pickle files"):
        checkpoint.load(written)
    (written / "pytorch_model.bin").unlink()
    with pytest.raises(ModelRefused, match=r"no \*\.safetensors file"):
        checkpoint.load(written)
    (written / "config.json").write_text("{")
    with pytest.raises(ModelRefused, match="is not JSON"):
        checkpoint.load(written)


def test_a_tensor_twice_is_an_error(tmp_path):
    written = tiny.make().write(tmp_path)
    file = written / "model-00001-of-00001.safetensors"
    twice = {"model.norm.weight": load_file(file)["model.norm.weight"]}
    save_file(twice, written / "model-00002.safetensors")
    with pytest.raises(ModelRefused, match="stands in two files"):
        checkpoint.load(written)


def test_a_head_of_its_own_is_used_when_it_is_not_tied(tmp_path):
    made = tiny.make()
    made.main["tie_word_embeddings"] = False
    made.tensors["lm_head.weight"] = torch.randn(300, tiny.HIDDEN)
    loaded = checkpoint.load(made.write(tmp_path / "a"))
    assert not torch.equal(loaded.head.weight, loaded.embedding)
    made.main["tie_word_embeddings"] = True
    with pytest.raises(ModelRefused, match="tied"):
        checkpoint.load(made.write(tmp_path / "b"))
    config = json.loads((tmp_path / "b" / "R1-Omni-0.5B" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
