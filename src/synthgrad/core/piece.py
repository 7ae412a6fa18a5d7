"""A piece of a model: a slice of a chain, or an excerpt of any model's own forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.batch import arguments
from synthgrad.core.bundle import Bundle
from synthgrad.core.errors import PartitionError
from synthgrad.core.recording import Recorder, Recording

__all__ = ["Answer", "Excerpt", "Piece", "Slice"]

Answer = Callable[[str, int], Any]

# What a copied module does not share with the original; compiled, that would be called in the copy's place.
_OF_THE_COPY = ("_modules", "_compiled_call_impl")


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
        bundles: by the name of a cut whose submodule returns more than a tensor: what of that crosses it.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        *,
        entry: str | None,
        leave: str | None,
        recording: Recording,
        bundles: Mapping[str, Bundle],
    ) -> None:
        super().__init__()
        self.stand_ins = _StandIns(entry, bundle=bundles.get(entry or ""))
        self.bundles = bundles
        self.recorder = recorder
        self.leave = leave
        self._copies: list[tuple[nn.Module, nn.Module]] = []  # each copy with its original
        self._done: dict[int, nn.Module] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self.root = self._rebuild(model, recording)
        del self._done, self._names

    def _rebuild(self, module: nn.Module, recording: Recording) -> nn.Module:
        """What stands in the piece where the module stands in the model."""
        if id(module) not in self._done:
            self._done[id(module)] = self._replacement(module, recording)
        return self._done[id(module)]

    def _replacement(self, module: nn.Module, recording: Recording) -> nn.Module:
        name, shared = self._names[id(module)], self.stand_ins
        calls = recording.calls.get(name, ())
        begin = shared.begins(recording)
        end = recording.calls[self.leave][0].end if self.leave else recording.end
        if name == shared.entry:
            return _Entry(module, shared)
        if calls and all(call.end <= begin or call.start > end for call in calls):
            return _Stub(module, shared, name)
        if calls and name != self.leave and all(call.start > begin and call.end <= end for call in calls):
            return module
        if name == self.leave and self._lies_behind(begin, module, name, recording):
            return _Exit(module, self.bundles.get(name))
        straddles = any(call.start <= begin < call.end or call.start <= end < call.end for call in calls)
        if calls and not straddles and name != self.leave:
            return _Latecomer(module, shared, name)
        if not calls and not any(inner in recording.calls for inner in self._inside(module, name)):
            return _Stub(module, shared, name) if name else module
        rebuilt = self._copy(module, {key: self._rebuild(child, recording) for key, child in module.named_children()})
        if name == self.leave:
            return _Exit(rebuilt, self.bundles.get(name))
        return _Latecomer(rebuilt, shared, name) if any(call.end <= begin for call in calls) else rebuilt

    def _lies_behind(self, begin: int, module: nn.Module, name: str, recording: Recording) -> bool:
        """Whether all that the sample called in the cut's submodule was called there alone, and behind the beginning.

        It then stays as it is: what the sample did not call in it, an expert say, other batches may call.
        """
        inside = (call for each in (name, *self._inside(module, name)) for call in recording.calls.get(each, ()))
        whole = recording.calls[name][0]
        return all(begin < whole.start <= call.start and call.end <= whole.end for call in inside)

    def _inside(self, module: nn.Module, name: str) -> list[str]:
        return [self._names[id(inner)] for inner in module.modules() if inner is not module]

    def _copy(self, module: nn.Module, children: dict[str, nn.Module]) -> nn.Module:
        """The module with these children; itself, if they are its own."""
        if all(child is module._modules[key] for key, child in children.items()):
            return module
        copied = object.__new__(type(module))
        copied.__dict__.update(module.__dict__)
        copied.__dict__.update(_modules={**module._modules, **children}, _compiled_call_impl=None)
        self._copies.append((copied, module))
        return copied

    def run(self, inputs: tuple[Any, ...], received: Tensor | None) -> Any:
        """The excerpt. Raises `PartitionError` where the forward pass takes another path than the sample's."""
        for copied, original in self._copies:  # attributes set on the model since, `training` before all
            copied.__dict__.update((key, value) for key, value in original.__dict__.items() if key not in _OF_THE_COPY)
        self.stand_ins.begin(self.recorder.of(inputs), received, inputs)
        try:
            positional, keywords = arguments(inputs)
            output = self.root(*positional, **keywords)
        except _Reached as reached:
            return reached.output
        finally:
            self.stand_ins.end()
        if self.leave is not None:
            raise PartitionError(
                f"the forward pass ended without calling {self.leave!r}, where the model is cut; the sample took "
                f"another path: cut where every batch passes"
            )
        return output

    def stubs(self) -> list[str]:
        """Names of the submodules whose output is, before the piece begins, made up: all of it, or the rest of it."""
        found = (module for module in self.root.modules() if isinstance(module, _Stub | _Latecomer))
        rest = [self.stand_ins.entry] if self.stand_ins.entry and self.stand_ins.bundle is not None else []
        return [*(module.name for module in found), *rest]

    def split(self) -> list[nn.Module]:
        """The model's modules that contain a cut, so that every piece runs their forward for itself."""
        return [original for _, original in self._copies]

    def run_anew(self, name: str) -> bool:
        """Let a stub run what it stands for. False if it does so already, or if that has weights or throws dice."""
        module = self.recorder.model.get_submodule(name)
        dice = any(isinstance(inner, nn.modules.dropout._DropoutNd) for inner in module.modules())
        if name in self.stand_ins.run_anew or dice or next(module.parameters(), None) is not None:
            return False
        self.stand_ins.run_anew.add(name)
        return True

    def answer_with(self, answer: Answer | None) -> None:
        """Let stubs return `answer(name, call)`; None: zeros, as is the rule."""
        self.stand_ins.answer = answer


class _Reached(BaseException):  # no Exception: a model's own `except Exception` must not catch it
    """The forward pass has come to the piece's end."""

    def __init__(self, output: Any) -> None:
        self.output = output


@dataclass
class _StandIns:
    """What the stand-ins of a piece share while it runs.

    Attributes:
        entry: the cut before the piece.
        bundle: where its submodule returns more than a tensor: what of that is received.
        answer: what stubs answer, if not zeros.
        run_anew: names of the submodules that stubs run in place of answering: what needs the batch alone.
        recording: of batches of this shape.
        before: of each submodule, which of its calls a stub answers: those that ended before the piece begins, and
            were not made by another one of them.
        calls: how often each stub has been called.
        received: at the cut.
        device: where answers are made.
    """

    entry: str | None
    bundle: Bundle | None = None
    answer: Answer | None = None
    run_anew: set[str] = field(default_factory=set)
    recording: Recording | None = None
    before: dict[str, list[int]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    received: Tensor | None = None
    device: torch.device | None = None

    def begins(self, recording: Recording) -> int:
        """When the piece begins, on the recording's clock."""
        return recording.calls[self.entry][0].end if self.entry else -1

    def begin(self, recording: Recording, received: Tensor | None, inputs: tuple[Any, ...]) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves((received, inputs)) if isinstance(leaf, Tensor)]
        self.received, self.device = received, tensors[0].device if tensors else None
        if recording is not self.recording:
            self.recording, self.before = recording, _outermost(recording, self.begins(recording))

    def end(self) -> None:
        self.received = None
        self.calls.clear()

    def next_call(self, name: str) -> int | None:
        """Which recorded call this is, if a stub is to answer it."""
        self.calls[name] = self.calls.get(name, -1) + 1
        before = self.before.get(name, ())
        return before[self.calls[name]] if self.calls[name] < len(before) else None

    def entered(self) -> Any:
        """What the cut's submodule is to return: what was received, in its place, and nothing else that is real."""
        if self.bundle is None or self.entry is None or self.received is None:
            return self.received
        return self.bundle.unpack(self.received, self.output(self.entry, 0))

    def output(self, name: str, call: int) -> Any:
        assert self.recording is not None
        if self.answer is not None:
            return self.answer(name, call)
        shapes = self.recording.calls[name][call].output
        return pytree.tree_map_only(Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype, device=self.device), shapes)


def _outermost(recording: Recording, begin: int) -> dict[str, list[int]]:
    """The calls that ended before `begin`, less those made inside another one of them; by submodule."""
    ended = [
        (call.start, call.end, name, index)
        for name, calls in recording.calls.items()
        for index, call in enumerate(calls)
        if call.end <= begin
    ]
    found: dict[str, list[int]] = {}
    latest = -1
    for _, end, name, index in sorted(ended):
        if end > latest:
            found.setdefault(name, []).append(index)
            latest = end
    return found


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

    def __init__(self, original: nn.Module, shared: _StandIns) -> None:
        super().__init__(original)
        self.shared = shared

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.shared.entered()


class _Stub(_StandIn):
    """Returns values of the right shape, without computing anything."""

    def __init__(self, original: nn.Module, shared: _StandIns, name: str) -> None:
        super().__init__(original)
        self.shared, self.name = shared, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self.shared.next_call(self.name)
        if call is None:
            raise PartitionError(
                f"{self.name!r} is called where the sample did not call it, so no stage is known to have its weights; "
                f"pass a sample that takes this path too, or cut where every batch takes the same"
            )
        if self.name in self.shared.run_anew:
            return self.__dict__["original"](*args, **kwargs)
        return self.shared.output(self.name, call)


class _Latecomer(_StandIn):
    """A submodule that is called before the piece as well as in it: a stub for its first calls, then itself."""

    def __init__(self, original: nn.Module, shared: _StandIns, name: str) -> None:
        super().__init__(original)
        self.itself = original
        self.shared, self.name = shared, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self.shared.next_call(self.name)
        anew = call is None or self.name in self.shared.run_anew
        return self.itself(*args, **kwargs) if anew else self.shared.output(self.name, call)


class _Exit(_StandIn):
    """Ends the forward pass when the submodule has its output."""

    def __init__(self, original: nn.Module, bundle: Bundle | None) -> None:
        super().__init__(original)
        self.itself = original
        self.bundle = bundle

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.itself(*args, **kwargs)
        raise _Reached(output if self.bundle is None else self.bundle.pack(output))
