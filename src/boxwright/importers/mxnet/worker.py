"""Runs a network by MXNet itself, in an interpreter that has MXNet.

MXNet 1.9.1, the last release, needs NumPy below 1.24, which Boxwright does not run on. So
this file is a program of its own, that needs nothing but MXNet::

    python worker.py SYMBOL PARAMS INPUTS.npz OUTPUTS.npz [TENSOR ...]

It feeds the arrays of ``INPUTS.npz`` by name, and writes the tensors asked for (by default
the network's outputs) as ``0``, ``1`` and so on.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def load_mxnet() -> Any:
    """MXNet, with the names that newer releases of NumPy have dropped put back."""
    import numpy as np

    # MXNet's own kernels: oneDNN's round otherwise, and lack some settings.
    os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
    os.environ.setdefault("MXNET_MKLDNN_ENABLED", "0")
    for name, kind in (("bool", bool), ("int", int), ("float", float), ("object", object)):
        if name not in vars(np):
            setattr(np, name, kind)
    import mxnet

    return mxnet


def run(mxnet: Any, symbol: Any, weights: dict[str, Any], inputs: dict[str, Any]) -> list[Any]:
    """The outputs of a symbol as NumPy arrays.

    Args:
        mxnet: The module.
        symbol: What to run.
        weights: Parameters as ``mx.nd.load`` returns them, ``arg:`` and ``aux:`` before names.
        inputs: Arrays by name.
    """
    shapes = {name: array.shape for name, array in inputs.items()}
    executor = symbol.simple_bind(ctx=mxnet.cpu(), grad_req="null", **shapes)
    for name, array in weights.items():
        kind, _, bare = name.partition(":")
        places = executor.arg_dict if kind == "arg" else executor.aux_dict
        if bare in places:
            places[bare][:] = array
    for name, array in inputs.items():
        executor.arg_dict[name][:] = array
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def main(arguments: list[str]) -> None:
    """Command line; see this module."""
    import numpy as np

    symbol_path, params_path, inputs_path, outputs_path, *wanted = arguments
    mxnet = load_mxnet()
    symbol = mxnet.sym.load(symbol_path)
    if wanted:
        inside = symbol.get_internals()
        symbol = mxnet.sym.Group([inside[name] for name in wanted])
    with np.load(inputs_path) as inputs:
        outputs = run(mxnet, symbol, mxnet.nd.load(params_path), dict(inputs))
    np.savez(outputs_path, mxnet.__version__, *outputs)


if __name__ == "__main__":
    main(sys.argv[1:])
