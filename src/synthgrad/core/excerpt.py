"""A piece of a model: a slice of a chain, or an excerpt of any model's own forward pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.errors import PartitionError
from synthgrad.core.recording import Recorder, Recording

__all__ = ["Excerpt", "Piece", "Slice"]


class Piece(nn.Module):
    """Called with the model's inputs, and the activation received at the cut before it (the first piece: None).

    Attributes:
        changes_input: whether the piece writes into what it receives; it then works on a copy, since the stage before
            has saved the same tensor for its backward pass.
    """

    changes_input: bool = False

    def forward(self, inputs: tuple[Any, ...], received: Tensor | None) -> Any:
        """The activation at the cut behind the piece; of the last piece, the model's output."""
        return self.run(inputs, received.clone() if self.changes_input and received is not None else received)

    def run(self, inputs: tuple[Any, ...], received: Tensor | None) -> Any:
        """As `forward`, on a tensor that may be written into."""
        raise NotImplementedError


class Slice(Piece):
    """Some successive members of a chain."""

    def __init__(self, members: nn.Sequential) -> None:
        super().__init__()
        self.members = members

    def run(self, inputs: tuple[Any, ...], received: Tensor | None) -> Any:
        """The members, one after the other."""
        return self.members(*inputs) if received is None else self.members(received)


class Excerpt(Piece):
    """The model's own forward pass from one cut to the next, with everything before it replaced by stubs.

    The modules that contain a cut are copied, but not what is in them: parameters, buffers and all other modules are
    the model's own. The model itself is not changed.

    Args:
        model: the whole model.
        recorder: of the model's shapes.
        entry: name of the cut's submodule before the piece, or None.
        leave: name of the cut's submodule behind the piece, or None.
        recording: of the sample.
    """

    def __init__(
        self, model: nn.Module, recorder: Recorder, *, entry: str | None, leave: str | None, recording: Recording
    ) -> None:
        super().__init__()
        self.stage_play = _Play()
        self.recorder = recorder
        self.leave = leave
        self._copies: list[tuple[dict[str, Any], dict[str, Any]]] = []  # attributes of each copy and of its original
        begin = recording.calls[entry][0].end if entry else -1
        end = recording.calls[leave][0].end if leave else 2**62
        names = {id(module): name for name, module in model.named_modules()}
        done: dict[int, nn.Module] = {}

        def rebuild(module: nn.Module) -> nn.Module:
            if id(module) not in done:
                done[id(module)] = replacement(module)
            return done[id(module)]

        def replacement(module: nn.Module) -> nn.Module:
            name = names[id(module)]
            calls = recording.calls.get(name, ())
            if name == entry:
                return _Entry(module, self.stage_play)
            before = sum(call.end <= begin for call in calls)
            if calls and (before == len(calls) or calls[0].start > end):
                return _Stub(module, self.stage_play, name)
            rebuilt = self._copy(module, {key: rebuild(child) for key, child in module.named_children()})
            if name == leave:
                return _Exit(rebuilt)
            return _Latecomer(rebuilt, self.stage_play, name, before) if before else rebuilt

        self.root = rebuild(model)

    def _copy(self, module: nn.Module, children: dict[str, nn.Module]) -> nn.Module:
        """The module with these children; itself, if they are its own."""
        if all(child is module._modules[key] for key, child in children.items()):
            return module
        copied = object.__new__(type(module))
        copied.__dict__.update(module.__dict__)
        copied.__dict__["_modules"] = {**module._modules, **children}
        self._copies.append((copied.__dict__, module.__dict__))
        return copied

    def run(self, inputs: tuple[Any, ...], received: Tensor | None) -> Any:
        """The excerpt. Raises `PartitionError` where the forward pass does not come by the piece's end."""
        for copied, original in self._copies:  # attributes set on the model since, `training` before all
            copied.update((key, value) for key, value in original.items() if key != "_modules")
        self.stage_play.begin(self.recorder.of(inputs), received, inputs)
        try:
            output = self.root(*inputs)
        except _Reached as reached:
            return reached.output
        finally:
            self.stage_play.end()
        if self.leave is not None:
            raise PartitionError(
                f"the forward pass ended without calling {self.leave!r}, where the model is cut; the sample took "
                f"another path: cut where every batch passes"
            )
        return output

    def stubs(self) -> list[str]:
        """Names of the submodules that are replaced by stubs before the piece begins."""
        found = (module for module in self.root.modules() if isinstance(module, _Stub | _Latecomer))
        return [module.name for module in found]

    def answer_with(self, answer: "Callable[[str, int, Any], Any] | None") -> None:
        """Let stubs return `answer(name, call, shapes)`; None: zeros, as is the rule."""
        self.stage_play.answer = answer


class _Reached(BaseException):  # no Exception: a model's own `except Exception` must not catch it
    """The forward pass has come to the piece's end."""

    def __init__(self, output: Any) -> None:
        self.output = output


@dataclass
class _Play:
    """What the stand-ins share while a piece runs."""

    answer: Callable[[str, int, Any], Any] | None = None
    recording: Recording | None = None
    received: Tensor | None = None
    device: torch.device | None = None
    calls: dict[str, int] = field(default_factory=dict)

    def begin(self, recording: Recording, received: Tensor | None, inputs: tuple[Any, ...]) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves((received, inputs)) if isinstance(leaf, Tensor)]
        self.recording, self.received = recording, received
        self.device = tensors[0].device if tensors else None

    def end(self) -> None:
        self.recording = self.received = None
        self.calls.clear()

    def next_call(self, name: str) -> int:
        self.calls[name] = self.calls.get(name, -1) + 1
        return self.calls[name]

    def output(self, name: str, call: int) -> Any:
        assert self.recording is not None
        shapes = self.recording.calls[name][call].output
        if self.answer is not None:
            return self.answer(name, call, shapes)
        return pytree.tree_map_only(Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype, device=self.device), shapes)


class _StandIn(nn.Module):
    """Stands where a submodule stood, and has its attributes, for parents that look at them."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.__dict__["original"] = original  # past nn.Module's registration: the parameters are not this piece's

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["original"], name)


class _Entry(_StandIn):
    """Returns what was received."""

    def __init__(self, original: nn.Module, play: _Play) -> None:
        super().__init__(original)
        self.play = play

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.play.received


class _Stub(_StandIn):
    """Returns values of the right shape, without computing anything."""

    def __init__(self, original: nn.Module, play: _Play, name: str) -> None:
        super().__init__(original)
        self.play, self.name = play, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.play.output(self.name, self.play.next_call(self.name))


class _Latecomer(_StandIn):
    """A submodule that is called before the piece as well as in it: a stub for its first calls, then itself."""

    def __init__(self, original: nn.Module, play: _Play, name: str, before: int) -> None:
        super().__init__(original)
        self.itself = original
        self.play, self.name, self.before = play, name, before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self.play.next_call(self.name)
        return self.play.output(self.name, call) if call < self.before else self.itself(*args, **kwargs)


class _Exit(_StandIn):
    """Ends the forward pass when the submodule has its output."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__(original)
        self.itself = original

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise _Reached(self.itself(*args, **kwargs))
