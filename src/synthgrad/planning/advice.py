"""What a plan says: a table of the ways to train, what to take from it, and what to type."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from synthgrad.core.links import parse_links
from synthgrad.planning.balance import Segment, merged
from synthgrad.planning.options import Family, Option, break_even, options

__all__ = ["Advice", "advise", "plan_for", "size_text", "time_text"]

NEAR = 0.02  # options this near to each other are told apart by nobody's clock


@dataclass(frozen=True)
class Advice:
    """The ways to train a model on some devices, and which pays.

    Attributes:
        segments: as measured.
        devices: how many there are.
        microbatches: of the locked pipelines.
        links: as they were written.
        options: all ways, the plainest first.
        given: names of arguments, of those that `decouple` takes too, that the measurement was made with.
    """

    segments: tuple[Segment, ...]
    devices: int
    microbatches: int
    links: tuple[str, ...]
    options: tuple[Option, ...]
    given: tuple[str, ...] = ()

    @property
    def fastest(self) -> Option:
        """The fastest of all; of those equally fast, the plainest."""
        return _plainest(self.options)

    @property
    def decoupled(self) -> Option | None:
        """The fastest decoupled one, if there are several devices."""
        found = self.of(Family.UNLOCKED)
        return _plainest(found) if found else None

    @property
    def taken(self) -> Option:
        """The one that the call at the end is for: the fastest that this library runs."""
        ours = [option for option in self.options if option.family in (Family.LOCKED, Family.UNLOCKED)]
        ours = [option for option in ours if "interleaved" not in option.name]
        return _plainest(ours or self.options)

    def of(self, family: Family) -> list[Option]:
        """The options of a family."""
        return [option for option in self.options if option.family is family]

    @property
    def cost(self) -> float:
        """What the synthesizer adds to the slowest stage, as a share of its work, with a stage for each device."""
        deep = [option for option in self.of(Family.UNLOCKED) if option.replicas == 1]
        if not deep:
            return 0.0
        stages = self.stages(_plainest(deep))
        slowest = max(stages[:-1], key=lambda one: one.work + one.extra)
        return slowest.extra / slowest.work

    def stages(self, option: Option) -> list[Segment]:
        """What an option's stages cost, the synthesizers at their cuts included; seconds and bytes of a batch."""
        return merged(self.segments, [index for index, one in enumerate(self.segments) if one.name in option.cuts])

    def words(self) -> list[str]:
        """What the table says, a paragraph each."""
        if self.decoupled is None:
            return ["One device: decoupling only adds work there. Use plain back-propagation."]
        said = [self._break_even(), self._comparison(self.decoupled), *self._instead(self.decoupled)]
        if not any(option.predicts_inputs for option in self.options):
            said.append(_NOT_PREDICTED)
        return [*said, _CAVEAT]

    def _break_even(self) -> str:
        least = 100 * break_even(self.devices, self.microbatches)
        gap = _gap(self.segments)
        finer = 100 * break_even(self.devices, self.microbatches, gap=gap)
        return (
            f"With {self.devices} stages and {self.microbatches} microbatches, decoupling wins only if the synthesizer "
            f"costs less than {least:.1f} % of a stage (equal stages; slow links raise that); here it costs "
            f"{100 * self.cost:.1f} % of the slowest. Against a zero-bubble pipeline the bar is {finer:.1f} %, against "
            f"an asynchronous one 0 %."
        )

    def _comparison(self, decoupled: Option) -> str:
        best = self.fastest
        locked = min(self.of(Family.LOCKED), key=lambda option: option.seconds)
        ratio = locked.seconds / decoupled.seconds
        against = (
            f"{decoupled.title} takes {time_text(decoupled.seconds)} a step, {ratio:.2f} times as fast as the "
            f"fastest locked pipeline, {locked.title}, and holds {size_text(decoupled.memory)} on the fullest device "
            f"instead of {size_text(locked.memory)}."
        )
        return f"Fastest here: {best.title} ({best.family.value}), {time_text(best.seconds)} a step. {against}"

    def _instead(self, decoupled: Option) -> list[str]:
        """Where another way is as good or better."""
        said = []
        reach = decoupled.seconds * (1 + NEAR)
        alone, replicas = self.of(Family.ALONE)[0], self.of(Family.REPLICAS)[0]
        if alone.seconds <= reach:
            said.append(
                f"Plain back-propagation on one device is the better choice: {time_text(alone.seconds)} a step, the "
                f"exact gradient, and no links."
            )
        elif replicas.seconds <= reach:
            said.append(
                f"Data parallelism is the better choice where the model fits on each device "
                f"({size_text(replicas.memory)}): {time_text(replicas.seconds)} a step, with the exact gradient."
            )
        locked = min(self.of(Family.LOCKED), key=lambda option: option.seconds)
        if locked.seconds <= reach and alone.seconds > reach:
            said.append(
                f"A locked pipeline is the better choice: {locked.title} has the exact gradient and is as fast."
            )
        stale = min(self.of(Family.STALE), key=lambda option: option.seconds, default=None)
        if stale is not None and stale.seconds <= reach:
            said.append(
                f"An asynchronous pipeline is the better choice if you can bear gradients one update old and two "
                f"versions of the weights: {stale.title} takes {time_text(stale.seconds)} a step, and pays "
                f"no synthesizer. synthgrad simulates it only."
            )
        return [*(said or ["Nothing above is as fast as decoupling here."]), *self._fewer_stages()]

    def _fewer_stages(self) -> list[str]:
        """Where data parallelism inside the stages of a shorter pipeline is faster than a stage for each device."""
        said = []
        for family, what in ((Family.LOCKED, "locked"), (Family.UNLOCKED, "decoupled")):
            best = _plainest(self.of(family))
            if best.replicas > 1:
                deep = min(option.seconds for option in self.of(family) if option.replicas == 1)
                said.append(
                    f"{what.capitalize()}, fewer stages are the better choice, each data parallel on {best.replicas} "
                    f"devices: {len(best.cuts) + 1} of them take {time_text(best.seconds)} a step, {self.devices} of "
                    f"one device each {time_text(deep)}."
                )
        return said

    @property
    def command(self) -> str:
        """What starts a script, on all devices."""
        return f"torchrun --nproc-per-node {self.devices} train.py" if self.devices > 1 else "python train.py"

    def call(self, loss: str = "loss") -> str:
        """The call of `decouple` for the option taken; empty for one device.

        Args:
            loss: how the loss is written there. What `given` names is written by that name.
        """
        if self.devices == 1:
            return ""
        option = self.taken
        lines = [
            "net = sg.decouple(",
            "    model,",
            f"    at={list(option.cuts)!r},",
            "    sample=sample,",
            f"    loss={loss},",
            "    optimizer=torch.optim.Adam,",
            *(f"    {text}," for text in self._synthesizers(option)),
            f"    schedule=sg.{option.name},",
            ")",
        ]
        return "\n".join(lines)

    def _synthesizers(self, option: Option) -> list[str]:
        """The arguments that say what stands at the cuts; none where `decouple` chooses as the measurement did."""
        if option.family is not Family.UNLOCKED:
            return ["synthesizer=None"]
        written = ["synthesizer=synthesizer"] if "synthesizer" in self.given else []
        if option.predicts_inputs:
            named = "input_synthesizer" if "input_synthesizer" in self.given else "sg.MLPInputSynthesizer"
            written.append(f"input_synthesizer={named}")
        return written


_NOT_PREDICTED = (
    "No row for the complete unlock: its input synthesizers predict from the model's first input, which holds indices "
    "here, or more features than a perceptron bears; give input_synthesizer= to plan_for, and it is measured."
)
_CAVEAT = (
    "These are times, of steps that are not all worth the same: a synthetic gradient is not the true one, and may need "
    "more steps or end at another error. Compare that with `synthgrad compare` before you decide."
)


def plan_for(
    model: Any,
    sample: tuple[Any, ...],
    *,
    devices: int,
    links: Sequence[str] | str = (),
    microbatches: int | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    synthesizer: Callable[[tuple[int, ...]], Any] | None = None,
    input_synthesizer: Callable[[tuple[int, ...], tuple[int, ...]], Any] | None = None,
    among: Sequence[str] | None = None,
    seconds: float = 15.0,
) -> Advice:
    """Measure a model on a sample batch, choose its cuts, and say how long a step takes in each way to train it.

    Args:
        model: any `nn.Module`; it is not changed.
        sample: the batch of one step: the model's positional arguments, if need be `Keywords`, and last the target.
        devices: how many, each like this one, with a stage each.
        links: between them: `"1GBps,20ms"`, or several such texts, of which `"0-1=50ms"` holds between two devices.
        microbatches: into how many parts the pipelines split a batch; if not given, one, two or four for each device:
            with which a locked pipeline is fastest.
        loss: as in `decouple`; if not given, what suits the target.
        synthesizer: as in `decouple`; if not given, the task decides which.
        input_synthesizer: as in `decouple`; if not given, a perceptron, where it suits the model's first input.
        among: names of submodules: cut only there.
        seconds: to measure for, about.

    Returns:
        The advice: `options` to compare, `words()` to read, `call()` and `command` to type.

    Raises:
        PlanningError: no sample with a target; fewer places to cut than it takes; the message names them.
        PartitionError: the model cannot be cut at one of `among`; the message says why, and where it could.
        LinkError: a link that cannot be read, or between devices that are not there.
    """
    texts = [links] if isinstance(links, str) else list(links)
    parse_links(texts, max(devices, 1))  # before anything is measured
    from synthgrad.planning.profile import profile, rows_of  # brings torch

    segments = profile(
        model,
        sample,
        loss=loss,
        synthesizer=synthesizer,
        input_synthesizer=input_synthesizer,
        among=among,
        seconds=seconds,
    )
    factories = {"synthesizer": synthesizer, "input_synthesizer": input_synthesizer}
    given = tuple(name for name, factory in factories.items() if factory is not None)
    counts = [devices * times for times in (1, 2, 4) if devices * times <= rows_of(sample)] or [1]
    tried = counts if microbatches is None else [microbatches]
    return min((advise(segments, devices, count, texts, given=given) for count in tried), key=_locked_seconds)


def advise(
    segments: Sequence[Segment],
    devices: int,
    microbatches: int,
    links: Sequence[str] = (),
    *,
    given: tuple[str, ...] = (),
) -> Advice:
    """The advice on segments that were measured, or made up. Raises as `plan_for` does."""
    between = parse_links(links, max(devices, 1))
    found = options(segments, devices, microbatches, between)
    return Advice(tuple(segments), devices, microbatches, tuple(links), tuple(found), given)


def _plainest(found: Sequence[Option]) -> Option:
    """Of the fastest, the first: the plainest come first."""
    least = min(option.seconds for option in found)
    return next(option for option in found if option.seconds <= least * (1 + NEAR))


def _locked_seconds(advice: Advice) -> float:
    return min((option.seconds for option in advice.of(Family.LOCKED)), default=0.0)


def _gap(segments: Sequence[Segment]) -> float:
    """(F+B-W)/(F+B+W), not below 0: what ZB-H1 pays for each further stage."""
    forward, inputs, weights = (
        sum(getattr(one, name) for one in segments) for name in ("forward", "input_half", "weight_half")
    )
    return max(0.0, forward + inputs - weights) / (forward + inputs + weights)


def time_text(seconds: float) -> str:
    """For people: 56.4 ms."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size_text(size: float) -> str:
    """For people, in decimal units: 20.1 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
