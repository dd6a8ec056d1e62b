"""A Darknet network through TensorRT's network API, one ``add_*`` call after another.

The usual way to an engine is the ONNX graph and TensorRT's parser. This package takes the
other one: it calls :class:`INetworkDefinition` itself and never sees ONNX. The result keeps
the same contract, so both can be built and compared; where they differ, the parser, the
ONNX writer or this package is wrong.

The module called ``trt`` everywhere below is ``tensorrt`` (8.6, 10, 11) or ``tensorrt_rtx``.
It is given, never imported: what differs between them is asked of the module itself.
"""

from boxwright.darknet.tensorrt.define import Definition, define_network

__all__ = ["Definition", "define_network"]
