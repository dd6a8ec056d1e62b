"""Modules that are in memory already: torch exports them to ONNX, and that is imported.

Here torch runs the module, as it must to export it; so this is for modules that the
caller has made or loaded, never for files. A TorchScript file is a program: load it with
``torch.jit.load`` if you trust it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__
from boxwright.card import Interpolation, Resize, Transform
from boxwright.errors import ImportFailedError
from boxwright.extras import require
from boxwright.graph.builder import OPSET
from boxwright.importers.registry import import_model
from boxwright.model import Model

if TYPE_CHECKING:
    import torch

Names = str | Path | list[str] | tuple[str, ...]

# The newer exporter writes 18 and upwards; the importer of ONNX brings it back to ours.
_NEW_OPSET = 18


def import_torch(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example: torch.Tensor,
    *,
    head: str | None = None,
    names: Names | None = None,
    name: str = "module",
    options: Mapping[str, Any] | None = None,
    resize: Resize | None = None,
    interpolation: Interpolation | None = None,
    licence: str | None = None,
) -> Model:
    """Make a Model of a detector that is a PyTorch module in memory.

    Args:
        module: An ``nn.Module``, a ``torch.export`` program, or a TorchScript module. It is
            called with `example`, in evaluation mode, and its mode is put back.
        example: An input such as it takes, ``(1, 3, H, W)``; its size becomes the model's.
        head: What kind of head it ends in, such as ``yolox``; told from its outputs where
            that can be done.
        names: A file with one class name per line, or the names themselves.
        name: The model's name.
        options: What the outputs do not say, such as ``{"scale": "1/255"}``: the options
            of the ONNX importer.
        resize: ``letterbox`` or ``stretch``.
        interpolation: ``darknet`` or ``opencv``.
        licence: Licence of the weights, kept in the card.

    Raises:
        MissingExtraError: PyTorch is not installed.
        ImportFailedError: PyTorch cannot export the module, or what it exports is no
            detector whose head is known.
    """
    torch = require("torch", "torch")
    if (
        not isinstance(example, torch.Tensor)
        or example.dim() != 4
        or example.shape[1] not in (1, 3)
    ):
        got = list(example.shape) if isinstance(example, torch.Tensor) else type(example).__name__
        raise ImportFailedError(f"example must be a tensor (1, 3, H, W), got {got}")
    with tempfile.TemporaryDirectory(prefix="boxwright-") as folder:
        path = Path(folder) / "module.onnx"
        exporter = _export(torch, module, example, path)
        try:
            model = import_model(
                path,
                format="onnx",
                head=head,
                names=names,
                options=options,
                resize=resize,
                interpolation=interpolation,
                licence=licence,
            )
        except ImportFailedError as error:
            raise ImportFailedError(
                str(error).replace(str(path), f"the exported {name}")
            ) from error
    record = Transform(
        "import:pytorch",
        parameters={"class": f"{type(module).__module__}.{type(module).__qualname__}"[:200]},
        versions={"boxwright": __version__, "torch": str(torch.__version__)},
        effect={"exporter": exporter},
    )
    card = dataclasses.replace(
        model.card,
        name=name,
        source_format="pytorch",
        # The file lasted only as long as the import.
        source_files=(),
        transforms=(record, *model.card.transforms),
    )
    return model.with_card(card)


def _export(torch: Any, module: Any, example: Any, path: Path) -> str:
    """Write the ONNX file; returns which of torch's two exporters did."""
    program = isinstance(module, torch.export.ExportedProgram)
    scripted = isinstance(module, torch.jit.ScriptModule)
    if not program and not isinstance(module, torch.nn.Module):
        raise ImportFailedError(
            f"expected an nn.Module or an exported program, got {type(module).__name__}"
        )
    new = not scripted and importlib.util.find_spec("onnxscript") is not None
    if program and not new:
        # Says with which command it is installed.
        require("onnxscript", "torch")
    training = None if program else [(part, part.training) for part in module.modules()]
    try:
        if training is not None:
            module.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if new:
                _export_new(torch, module, example, path, program)
            else:
                _export_traced(torch, module, example, path)
    # A module may raise whatever it likes, and so may the exporters.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ImportFailedError(f"PyTorch cannot export the module: {reason}") from error
    finally:
        for part, mode in training or ():
            part.training = mode
    return "torch.export" if new else "torchscript"


def _export_new(torch: Any, module: Any, example: Any, path: Path, program: bool) -> None:
    # A program has its batch fixed already, or not.
    shapes = {} if program else {"dynamic_shapes": ({0: torch.export.Dim("N")},)}
    arguments = () if program else ((_several(torch, example),),)
    made = torch.onnx.export(
        module, *arguments, dynamo=True, opset_version=_NEW_OPSET, verbose=False, **shapes
    )
    made.save(str(path), external_data=False)


def _several(torch: Any, example: Any) -> Any:
    """A batch of two: an extent of 1 would be taken for fixed."""
    return torch.cat([example[:1], example[:1]])


def _export_traced(torch: Any, module: Any, example: Any, path: Path) -> None:
    with path.open("wb") as stream:
        torch.onnx.export(
            module,
            (example[:1],),
            stream,
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            dynamic_axes={"images": {0: "N"}},
        )
