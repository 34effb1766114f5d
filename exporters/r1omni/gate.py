"""The instruction to three branch weights: BERT's CLS vector and a small network. Always fp32."""

from torch import Tensor, nn
from torch.nn import functional

from exporters.r1omni.layers import LayerNorm, attend, joined, split
from exporters.r1omni.spec import BRANCHES, GATE_HIDDEN, GateSpec


class BertSelf(nn.Module):
    """Query, key and value."""

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.query = nn.Linear(spec.hidden, spec.hidden)
        self.key = nn.Linear(spec.hidden, spec.hidden)
        self.value = nn.Linear(spec.hidden, spec.hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(1, n, hidden)`` → the same."""
        q, k, v = (split(f(x), self.heads) for f in (self.query, self.key, self.value))
        return joined(attend(q, k, v, mask))


class BertOutput(nn.Module):
    """Dense, residual, norm: BERT norms after the sum."""

    def __init__(self, width: int, spec: GateSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(width, spec.hidden)
        self.LayerNorm = LayerNorm(spec.hidden, eps=spec.eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """``(1, n, width)`` → ``(1, n, hidden)``."""
        answer: Tensor = self.LayerNorm(self.dense(x) + residual)
        return answer


class BertLayer(nn.Module):
    """One layer of BERT (arXiv 1810.04805), erf GELU."""

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": BertSelf(spec), "output": BertOutput(spec.hidden, spec)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(spec.hidden, spec.intermediate)})
        self.output = BertOutput(spec.intermediate, spec)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(1, n, hidden)`` → the same."""
        x = self.attention["output"](self.attention["self"](x, mask), x)
        answer: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return answer


class Bert(nn.Module):
    """BERT without its pooler."""

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(spec.vocab, spec.hidden),
                "position_embeddings": nn.Embedding(spec.positions, spec.hidden),
                "token_type_embeddings": nn.Embedding(spec.types, spec.hidden),
                "LayerNorm": LayerNorm(spec.hidden, eps=spec.eps),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(BertLayer(spec) for _ in range(spec.layers))}
        )

    def forward(self, ids: Tensor, attention_mask: Tensor, types: Tensor) -> Tensor:
        """``(1, n)`` each → ``(1, n, hidden)``."""
        parts = self.embeddings
        positions = attention_mask.new_ones(ids.shape[1]).cumsum(0) - 1
        x = parts["word_embeddings"](ids) + parts["token_type_embeddings"](types)
        x = parts["LayerNorm"](x + parts["position_embeddings"](positions))
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]  # a ModuleList
            x = layer(x, mask)
        answer: Tensor = x
        return answer


class Gate(nn.Module):
    """Instruction to branch weights: the graph ``gate``."""

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.bert_model = Bert(spec)
        self.bert_gate = nn.Sequential(
            nn.Linear(spec.hidden, GATE_HIDDEN), nn.GELU(), nn.Linear(GATE_HIDDEN, len(BRANCHES))
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """``(1, n)`` int64 each → ``(1, 3)`` probabilities, order :data:`BRANCHES`."""
        hidden = self.bert_model(input_ids, attention_mask, token_type_ids)
        answer: Tensor = self.bert_gate(hidden[:, 0]).softmax(-1)
        return answer
