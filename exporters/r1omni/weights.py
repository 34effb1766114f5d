"""Named tensors in safetensors files, read one by one from memory maps.

No pickle is ever opened. bf16 and fp16 are upcast to fp32, exactly.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import ModelRefused

SUFFIX: Final = ".safetensors"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Weights:
    """All tensors of one folder; an open context. Names are those of the files.

    Raises :class:`ModelRefused` when the folder has no safetensors file or one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = tuple(sorted(folder.glob(f"*{SUFFIX}")))
        if not self.files:
            raise ModelRefused(_nothing(folder))
        self._stack = ExitStack()
        self._where: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for file in self.files:
            try:
                opened = self._stack.enter_context(safe_open(file, "pt"))
                names = list(opened.keys())
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise ModelRefused(
                    f"{file} is damaged or cut short ({error}): fetch it again"
                ) from None
            for name in names:
                if name in self._where:
                    raise ModelRefused(f"{name} stands in two files of {self.folder}")
                self._where[name] = opened
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._where.clear()
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor without reading it."""
        return tuple(self._where[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return one tensor in fp32."""
        tensor: Tensor = self._where[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise ModelRefused(f"{name} in {self.folder} is {tensor.dtype}, not a float")
        return tensor.to(torch.float32)


class Renamed:
    """A view of :class:`Weights` under other names: the public layouts put towers elsewhere."""

    def __init__(self, weights: Weights, names: Mapping[str, str]) -> None:
        self._weights = weights
        self.names = names
        """Our name → the file's."""
        self.folder = weights.folder

    def only(self, names: Mapping[str, str]) -> "Renamed":
        """Return the same view with fewer names."""
        return Renamed(self._weights, names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._weights.shape(self.names[name])

    def read(self, name: str) -> Tensor:
        """Return one tensor in fp32."""
        return self._weights.read(self.names[name])


def _nothing(folder: Path) -> str:
    pickles = [file.name for file in sorted(folder.glob("*")) if file.suffix in PICKLES]
    if pickles:
        return (
            f"{folder} has only pickle files ({', '.join(pickles[:3])}), which can run code when "
            "read: take the *.safetensors files of the same model"
        )
    return f"{folder} has no *{SUFFIX} file: is this the folder of a checkpoint?"
