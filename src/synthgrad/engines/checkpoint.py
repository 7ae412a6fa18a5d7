"""Checkpoints: a folder to go on from, in as many processes as one likes.

    folder/
        LATEST                      the name of the newest whole checkpoint; written last, by renaming
        step-00000120/
            checkpoint.json         what it is of: versions, cuts, schedule; seed, step, the script's own values
            stage-0.json            a stage's plain values (learning rates), and which tensors it has
            shard-00001-model-...   tensors: a safetensors file from each process

A checkpoint has nothing in flight: saving flushes, so every lesson is learned and every message has come. Weights are
under their names in the whole model, optimizers under the names of their weights; so the stages can be spread over
other numbers of processes. The folder must be seen by all processes.

`torch.distributed.checkpoint` writes and reads the tensors, in its safetensors storage: its other one, the default,
pickles. Between processes it does pickle, as torch does for all its object collectives; what lies in files, never.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from synthgrad.core.errors import CheckpointError
from synthgrad.core.stage import Stage
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.engines.local import LocalEngine
from synthgrad.engines.message import News
from synthgrad.engines.state import Net, changes, identity, own_state, stage_state
from synthgrad.engines.values import Tensors, put_together, take_apart, tensors_in

__all__ = ["load_checkpoint", "read_weights", "save_checkpoint"]

FORMAT = 2
POINTER, HEADER, DRAFT = "LATEST", "checkpoint.json", ".partial"
T = TypeVar("T")


# ---- saving ----------------------------------------------------------------------------------------------------------


def save_checkpoint(net: Net, folder: str | Path, extra: Any = None, keep: int = 2) -> Path:
    """See `Decoupled.save`."""
    if keep < 1:
        raise CheckpointError(f"keep={keep}: expected to keep at least one checkpoint")
    engine, folder = net.engine, Path(folder)
    engine.flush()
    name = f"step-{engine.steps:08d}"
    draft = folder / (name + DRAFT)
    tensors = Tensors()

    def prepare() -> dict[str, Any]:
        own = [] if engine.replica else engine.stages  # replicas hold the same: one of them writes
        texts = {f"stage-{stage.index}.json": _stage_text(net, stage, tensors) for stage in own}
        if engine.first:
            texts[HEADER] = _header_text(net, extra, tensors)
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"step-*{DRAFT}"):  # of a run that was killed while saving
                shutil.rmtree(old)
            draft.mkdir()
        return texts

    def write(texts: dict[str, str]) -> None:
        for file, text in texts.items():
            _write(draft / file, text)

    def publish() -> None:
        if engine.first:
            _publish(folder, draft, name, keep)

    doing = f"saving step {engine.steps} to {folder}"
    texts = _agreed(engine, doing, prepare)
    try:
        _agreed(engine, doing, lambda: _save_tensors(engine, draft, tensors.by_name))
        _agreed(engine, doing, lambda: write(texts))
        _agreed(engine, doing, publish)
    except CheckpointError:
        if engine.first:
            shutil.rmtree(draft, ignore_errors=True)  # the disk may be full
        raise
    return folder / _pointed_at(folder)


def _header_text(net: Net, extra: Any, tensors: Tensors) -> str:
    common = {
        "seed": net.stages[0].draws.seed,
        "random": [generator.get_state() for generator in _generators()],
        "news": tuple(net.engine.news),
        "extra": extra,
    }
    versions = {name: version(name) for name in ("synthgrad", "torch")}
    header = {"format": FORMAT, "versions": versions, "steps": net.engine.steps, "of": identity(net)}
    return json.dumps(header | {"common": take_apart(common, "common", tensors)}, indent=1)


def _stage_text(net: Net, stage: Stage, tensors: Tensors) -> str:
    parts = {name: take_apart(part, name, tensors) for name, part in stage_state(net, stage).items()}
    return json.dumps(parts, indent=1)


def _save_tensors(engine: LocalEngine | DistributedEngine, draft: Path, tensors: dict[str, Tensor]) -> None:
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(draft), save_distributed=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # so it is, for one process
            dcp.save(tensors, storage_writer=writer, process_group=engine.group, no_dist=engine.group is None)
    except dcp.CheckpointException as error:  # a BaseException, the same one on all ranks
        faults = (f"rank {rank}: {type(fault).__name__}: {fault}" for rank, (fault, _) in error.failures.items())
        raise CheckpointError(f"{'; '.join(faults)}; see to the disk, and save again: nothing else is lost") from None


def _publish(folder: Path, draft: Path, name: str, keep: int) -> None:
    """Make the draft a checkpoint, and then the newest one; until that, the one before is untouched."""
    newest = _pointed_at(folder)
    final = folder / name
    while final.name == newest:  # saved twice after the same step
        final = final.with_name(f"{final.name}+")
    if final.exists():  # whole, but never pointed at: its run was killed in between
        shutil.rmtree(final)
    os.rename(draft, final)
    _sync(folder)
    _point(folder, final.name)
    older = sorted(path for path in folder.glob("step-*") if path.suffix != DRAFT and path != final)
    older.sort(key=lambda path: (path.name == newest, path.stat().st_mtime_ns))
    for path in older[: len(older) - (keep - 1)]:
        shutil.rmtree(path)


def _point(folder: Path, name: str) -> None:
    _write(folder / f"{POINTER}{DRAFT}", name)
    os.replace(folder / f"{POINTER}{DRAFT}", folder / POINTER)
    _sync(folder)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """See that names are on the disk, where the system lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_checkpoint(net: Net, folder: str | Path) -> Any:
    """See `Decoupled.load`."""
    engine, folder = net.engine, Path(folder)
    doing = f"loading from {folder}"
    name = _agreed(engine, doing, lambda: _pointed_at(folder), same="the newest checkpoint")
    if not name:
        return None

    def read() -> tuple[dict[str, Any], Any, list[Callable[[], None]]]:
        header = _header(folder / name, net)
        loaded = {stage.index: _stage(net, folder / name, stage) for stage in engine.stages}
        wanted = [header["common"], *({"dict": parts} for parts in loaded.values())]
        tensors = _load_tensors(folder / name, tensors_in({"list": wanted}))
        common = put_together(header["common"], tensors.__getitem__)
        todo = [
            change
            for stage in engine.stages
            for change in changes(net, stage, put_together({"dict": loaded[stage.index]}, tensors.__getitem__))
        ]
        return header, common, todo

    header, common, todo = _agreed(engine, doing, read)
    engine.flush()  # whoever loads in the middle of a run
    for change in todo:
        change()
    engine.resume(header["steps"], News(*common["news"]))
    for stage in net.stages:
        stage.draws.seed = common["seed"]
    for generator, state in zip(_generators(), common["random"], strict=False):
        generator.set_state(state)
    return common["extra"]


def _generators() -> list[torch.Generator]:
    """Those that a script draws from: the CPU's, and the present device's."""
    cuda = [torch.cuda.default_generators[torch.cuda.current_device()]] if torch.cuda.is_initialized() else []
    return [torch.default_generator, *cuda]


def _pointed_at(folder: Path) -> str:
    """The name of the newest checkpoint; empty if there is none yet."""
    pointer = folder / POINTER
    return pointer.read_text(encoding="utf-8").strip() if pointer.exists() else ""


def _header(path: Path, net: Net) -> dict[str, Any]:
    """What the checkpoint says of itself. Raises `CheckpointError` if it is not whole, or not of this model."""
    header = _json(path / HEADER)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: got format {header.get('format')}, expected {FORMAT}; load it with what wrote it, "
            f"{header.get('versions')}"
        )
    for what, here in identity(net).items():
        if (there := header["of"].get(what)) != here:
            raise CheckpointError(
                f"{path} is of another model: its {what}: {there}, here: {here}; load it into what it was saved from, "
                f"or name another folder"
            )
    files = [f"stage-{stage.index}.json" for stage in net.stages]
    if missing := [file for file in files if not (path / file).exists()]:
        raise CheckpointError(f"{path} is not whole: {', '.join(missing)} missing; {_remedy(path)}")
    return header


def _stage(net: Net, path: Path, stage: Stage) -> dict[str, Any]:
    """A stage's parts, if they fit its model. Raises `CheckpointError`, naming what does not."""
    parts = _json(path / f"stage-{stage.index}.json")
    there, here = parts["model"]["dict"], own_state(net, stage)
    for key in sorted(there.keys() | here.keys()):
        if key not in there or key not in here:
            where = "here" if key not in there else "in the checkpoint"
            raise CheckpointError(f"{path} is of another model: stage {stage.index} has {key!r} {where} only")
        kept, value = tensors_in(there[key]), here[key]
        if isinstance(value, Tensor) and list(kept.values()) != [(str(value.dtype), tuple(value.shape))]:
            raise CheckpointError(
                f"{path} is of another model: {key!r} is {_said(*kept.values())} there, and "
                f"{_said((str(value.dtype), tuple(value.shape)))} here"
            )
    return parts


def _said(*kinds: tuple[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{dtype} {shape}" for dtype, shape in kinds) or "no tensor"


def _load_tensors(path: Path, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(path))
    try:
        there = reader.read_metadata().state_dict_metadata
        if missing := [name for name in wanted if name not in there]:
            raise CheckpointError(
                f"{path} is not whole: {len(missing)} tensors are missing, as {missing[0]!r}: a shard file is gone; "
                f"{_remedy(path)}"
            )
        tensors = {
            name: torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            for name, (dtype, shape) in wanted.items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads for itself
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    except CheckpointError:
        raise
    except (Exception, dcp.CheckpointException) as error:
        raise CheckpointError(f"{path} cannot be read, it may be cut short: {error}; {_remedy(path)}") from error
    return tensors


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {_remedy(path.parent)}") from None


def _remedy(path: Path) -> str:
    others = sorted(one.name for one in path.parent.glob("step-*") if one != path and one.suffix != DRAFT)
    return f"write one of {', '.join(others)} into {path.parent / POINTER}" if others else "there is no older one"


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The plain model's weights and buffers in the newest checkpoint, by their names in the model.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    folder = Path(folder)
    if not (name := _pointed_at(folder)):
        raise CheckpointError(f"{folder}: holds no checkpoint; name the folder that was given to `save`")
    found: dict[str, Any] = {}
    for number in range(len(_json(folder / name / HEADER)["of"]["cuts"]) + 1):
        found |= _json(folder / name / f"stage-{number}.json")["model"]["dict"]
    plain = {key: one for key, one in found.items() if not key.startswith("synthgrad.") and "tensor" in (one or ())}
    tensors = _load_tensors(folder / name, tensors_in({"dict": plain}))
    return {key: tensors[parts["tensor"]] for key, parts in plain.items()}


# ---- all ranks together ----------------------------------------------------------------------------------------------


def _agreed(engine: LocalEngine | DistributedEngine, doing: str, act: Callable[[], T], same: str = "") -> T:
    """Do it on every rank, and go on only if no rank has failed; collective.

    Args:
        engine: of this rank.
        doing: what is being done, in words.
        act: what to do here.
        same: what `act` gives, if that must be the same on all ranks.

    Raises:
        CheckpointError: on every rank, with the reasons of those that failed.
        TransportError: a rank is gone, or does not come in time.
    """
    try:
        made = act()
    except Exception as error:
        reason = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        told, made, fault = engine.tell_all(f"-{reason}"), None, error
    else:
        told, fault = engine.tell_all(f"+{made}" if same else "+"), None
    if failed := {rank: text[1:] for rank, text in enumerate(told) if text[0] == "-"}:
        reasons = dict.fromkeys(failed.values())  # mostly all ranks have the same
        if 1 < len(told) != len(failed) or len(reasons) > 1:
            reasons = [f"rank {rank}: {text}" for rank, text in failed.items()]
        raise CheckpointError(f"{doing}: {'; '.join(reasons)}") from fault
    if len(set(told)) > 1:
        raise CheckpointError(
            f"{doing}: the ranks do not see the same as {same}: {', '.join(text[1:] or 'none' for text in told)}; "
            f"name a folder that all of them see"
        )
    return cast(T, made)
