"""The question as token ids with two holes, tokenised chunk by chunk.

``<video>`` and ``<audio>`` are not tokens: the text is split there and each chunk is tokenised by
itself. ``<vi_start>``, ``<think>`` and ``<answer>`` are ordinary text.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, Protocol

VIDEO: Final = "<video>"
AUDIO: Final = "<audio>"
INSTRUCTION: Final = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
    "characters is the most obvious to you?  Output the thinking process in <think> </think> and "
    "final emotion in <answer> </answer> tags."
)
"""The training instruction of R1-Omni, word for word, with its two spaces before "Output"."""
SYSTEM: Final = "You are a helpful assistant."
_DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system(?:\\n|\n)([^<'\"{}]+?)<\|im_end\|>", re.ASCII)

Hole = Literal["video", "audio"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token and the part of the text it stands for."""

    id: int
    start: int
    end: int


class Tokenizer(Protocol):
    """What is needed of a tokenizer; no special tokens are added."""

    def encode(self, text: str) -> list[Token]:
        """Split ``text``; special tokens written out in it count as such."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of ``ids``, special tokens left out."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question: ids and holes in order, and what the gate reads."""

    parts: tuple[tuple[int, ...] | Hole, ...]
    instruction: str

    @property
    def before_video(self) -> tuple[int, ...]:
        """Ids in front of the first hole: the same for every window, so their cache is kept."""
        first = self.parts[0]
        return first if isinstance(first, tuple) else ()

    @property
    def text_tokens(self) -> int:
        """Ids in all."""
        return sum(len(part) for part in self.parts if isinstance(part, tuple))


def system_of(template: str | None) -> str:
    """Return the default system sentence of a chat template; :data:`SYSTEM` when it has none."""
    found = _DEFAULT_SYSTEM.search(template or "")
    return found[1].strip() if found else SYSTEM


def build(
    tokenizer: Tokenizer,
    *,
    system: str = SYSTEM,
    instruction: str = INSTRUCTION,
    sound: bool = True,
) -> Prompt:
    """Return the prompt for a window with pictures, and with sound unless it is off."""
    heard = f"<au_start>{AUDIO}<au_end>\n" if sound else ""
    text = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<vi_start>{VIDEO}<vi_end>\n"
        f"{heard}{instruction}<|im_end|>\n<|im_start|>assistant\n"
    )
    holes: dict[str, Hole] = {VIDEO: "video", AUDIO: "audio"}
    parts: list[tuple[int, ...] | Hole] = []
    for chunk in re.split(f"({VIDEO}|{AUDIO})", text):
        hole = holes.get(chunk)
        parts.append(hole or tuple(token.id for token in tokenizer.encode(chunk)))
    return Prompt(tuple(parts), instruction)
