# ruff: noqa: E501 - a graph to a line
"""Small graphs, each with one thing that some runtime refuses or takes another way.

They are written in ONNX's own text form. Needed are numpy and onnx alone, so that
``benchmarks/graph_doctor_truth.py`` can ask a real TensorRT on a machine without the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

# Where a case does not turn on the opset: all known targets take this one.
_OPSET = 13
_IR = 7


@dataclass(frozen=True)
class Case:
    """One graph.

    Attributes:
        name: Unique; also the name of the graph.
        code: The finding that it is there for; ``""`` where nothing is to be found.
        make: Makes the graph.
    """

    name: str
    code: str
    make: Callable[[], onnx.ModelProto]


def model(body: str, opset: int = _OPSET, ir: int = _IR, domains: str = "") -> onnx.ModelProto:
    """The model whose graph is `body`, in ONNX's text form."""
    extra = f", {domains}" if domains else ""
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}{extra}]>\n{body}')


# name | code | opset | graph. A name says what is odd about the graph.
_TEXTS = """
plain | | 13 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }
plain 17 | | 17 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Sigmoid(x) y = Mul(x, a) }
dynamic batch | | 13 | g (float[N,4,8,8] x) => (float[N,4,8,8] y) { y = Relu(x) }

opset 8 | opset-old | 8 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }
opset 6 | opset-old | 6 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }
opset 18 | opset-new | 18 | g (float[1,4,8,8] x) => (float[1,1,1,1] y) <int64[3] a = {1,2,3}> { y = ReduceMean<keepdims=1>(x, a) }
opset 21 | opset-new | 21 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }
opset 25 | opset-new | 25 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }
opset 26 | opset-new | 26 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }

upsample | upsample | 9 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Upsample<mode="nearest">(x, s) }
upsample linear | upsample | 9 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Upsample<mode="linear">(x, s) }
upsample 7 | upsample | 7 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) { y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(x) }

double | double | 13 | g (double[1,4,8,8] x) => (double[1,4,8,8] y) <double[1] c = {0.5}> { y = Mul(x, c) }
double inside | double | 13 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) <double[1] c = {0.5}> { a = Cast<to=11>(x) b = Mul(a, c) y = Cast<to=1>(b) }
int64 constant | int64-constant | 13 | g (float[1,4,8,8] x) => (float[1,4,64] y) <int64[3] s = {1,4,64}> { y = Reshape(x, s) }
int64 input | int64-io | 13 | g (float[1,4] x, int64[2] i) => (float[1,2] y) { y = Gather<axis=1>(x, i) }
int64 output | int64-io | 13 | g (float[1,4] x) => (int64[1,1] y) { y = ArgMax<axis=1>(x) }
int64 beyond 32 bits | int64-out-of-range | 13 | g (int64[4] x) => (int64[4] y) <int64[1] c = {4294967296}> { y = Add(x, c) }
slice to the end | int64-constant | 13 | g (float[1,4,8,8] x) => (float[1,4,8,6] y) <int64[1] b = {2}, int64[1] e = {9223372036854775807}, int64[1] a = {3}> { y = Slice(x, b, e, a) }
uint8 input | uint8-io | 13 | g (uint8[1,8,8,3] x) => (float[1,8,8,3] y) { y = Cast<to=1>(x) }
uint8 output | uint8-io | 13 | g (float[1,8,8,3] x) => (uint8[1,8,8,3] y) { y = Cast<to=2>(x) }
uint8 inside | uint8-inside | 13 | g (uint8[1,8,8,3] x) => (float[1,3,8,8] y) { a = Transpose<perm=[0,3,1,2]>(x) y = Cast<to=1>(a) }
bfloat16 | bfloat16 | 13 | g (bfloat16[1,4] x) => (bfloat16[1,4] y) { y = Relu(x) }
float16 | | 13 | g (float16[1,4,8,8] x) => (float16[1,4,8,8] y) { y = Relu(x) }
int16 | type | 13 | g (float[1,4] x) => (float[1,4] y) { a = Cast<to=5>(x) y = Cast<to=1>(a) }
uint32 | type | 13 | g (uint32[1,4] x) => (float[1,4] y) { y = Cast<to=1>(x) }
bool output | | 13 | g (float[1,4] x) => (bool[1,4] y) <float[1] c = {0.5}> { y = Greater(x, c) }
string | string | 13 | g (string[1] x) => (string[1] y) { y = Identity(x) }
sequence | sequence | 13 | g (float[1,4] x) => (float[2,4] y) { s = SequenceConstruct(x, x) y = ConcatFromSequence<axis=0>(s) }
optional | sequence | 16 | g (float[1,4] x) => (float[1,4] y) { o = Optional(x) y = OptionalGetElement(o) }

resize nearest | | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s) }
resize linear | | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , s) }
resize align corners | | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s) }
resize 10 | | 10 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="nearest">(x, s) }
resize sizes | | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <int64[4] s = {1,4,16,16}> { y = Resize<mode="nearest">(x, , , s) }
resize cubic | resize-mode | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="cubic">(x, , s) }
resize cubic exclude | resize-mode | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="cubic", exclude_outside=1>(x, , s) }
resize crop | resize-coordinates | 13 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[8] r = {0,0,0,0,1,1,1,1}, float[4] s = {1,1,2,2}> { y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(x, r, s) }
resize symmetric | resize-coordinates | 19 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="linear", coordinate_transformation_mode="half_pixel_symmetric">(x, , s) }
resize antialias | resize-antialias | 18 | g (float[1,4,8,8] x) => (float[1,4,4,4] y) <float[4] s = {1,1,0.5,0.5}> { y = Resize<mode="linear", antialias=1>(x, , s) }
resize antialias off up | resize-antialias | 18 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Resize<mode="linear", antialias=1>(x, , s) }
resize axes | resize-axes | 18 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[2] s = {2,2}> { y = Resize<mode="linear", axes=[2,3]>(x, , s) }
resize not larger | resize-aspect | 18 | g (float[1,4,8,8] x) => (float[1,4,12,12] y) <int64[2] s = {12,16}> { y = Resize<mode="linear", axes=[2,3], keep_aspect_ratio_policy="not_larger">(x, , , s) }
resize not smaller | resize-aspect | 18 | g (float[1,4,8,6] x) => (float[1,4,16,12] y) <int64[4] s = {1,4,12,12}> { y = Resize<mode="nearest", keep_aspect_ratio_policy="not_smaller", axes=[0,1,2,3]>(x, , , s) }
resize computed sizes | dynamic-shape | 13 | g (float[1,4,8,8] x, float[1,4,H,W] z) => (float[1,4,h,w] y) { s = Shape(z) y = Resize<mode="nearest">(x, , , s) }
resize input scales | resize-computed | 13 | g (float[1,4,8,8] x, float[4] s) => (float[a,b,h,w] y) { y = Resize<mode="nearest">(x, , s) }

pad 2 | pad-attribute | 9 | g (float[1,4,8,8] x) => (float[1,4,10,10] y) { y = Pad<pads=[0,0,1,1,0,0,1,1], value=0.5>(x) }
pad | | 13 | g (float[1,4,8,8] x) => (float[1,4,10,10] y) <int64[8] p = {0,0,1,1,0,0,1,1}> { y = Pad(x, p) }
pad negative | pad-negative | 13 | g (float[1,4,8,8] x) => (float[1,4,6,6] y) <int64[8] p = {0,0,-1,-1,0,0,-1,-1}> { y = Pad(x, p) }
pad mixed signs | pad-negative | 13 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) <int64[8] p = {0,0,-1,1,0,0,1,-1}> { y = Pad(x, p) }
pad reflect | | 13 | g (float[1,4,8,8] x) => (float[1,4,10,10] y) <int64[8] p = {0,0,1,1,0,0,1,1}> { y = Pad<mode="reflect">(x, p) }
pad edge | | 13 | g (float[1,4,8,8] x) => (float[1,4,10,10] y) <int64[8] p = {0,0,1,1,0,0,1,1}> { y = Pad<mode="edge">(x, p) }
pad wrap | pad-mode | 19 | g (float[1,4,8,8] x) => (float[1,4,10,10] y) <int64[8] p = {0,0,1,1,0,0,1,1}> { y = Pad<mode="wrap">(x, p) }
pad axes | pad-axes | 18 | g (float[1,4,8,8] x) => (float[1,4,10,10] y) <int64[4] p = {1,1,1,1}, float v = {0.0}, int64[2] a = {2,3}> { y = Pad(x, p, v, a) }
pad computed | pad-computed | 13 | g (float[1,4,8,8] x, int64[8] p) => (float[a,b,h,w] y) { y = Pad(x, p) }

mish | operator-decomposed | 18 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Mish(x) }
hard swish |  | 14 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = HardSwish(x) }
gelu | operator-decomposed | 20 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Gelu(x) }
gelu tanh | operator-decomposed | 20 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Gelu<approximate="tanh">(x) }
swish 24 | operator-decomposed | 24 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Swish(x) }
layer normalization |  | 17 | g (float[1,4,8] x) => (float[1,4,8] y) <float[8] s = {1,2,3,4,5,6,7,8}, float[8] b = {1,1,1,1,1,1,1,1}> { y = LayerNormalization<axis=-1>(x, s, b) }
group normalization | group-normalization | 21 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4] s = {1,2,3,4}, float[4] b = {1,1,1,1}> { y = GroupNormalization<num_groups=2>(x, s, b) }
grid sample |  | 16 | g (float[1,4,8,8] x, float[1,6,6,2] i) => (float[1,4,6,6] y) { y = GridSample<mode="bilinear", padding_mode="zeros">(x, i) }
grid sample 5d | grid-sample-rank | 20 | g (float[1,4,8,8,8] x, float[1,6,6,6,3] i) => (float[1,4,6,6,6] y) { y = GridSample<mode="linear">(x, i) }
grid sample cubic |  | 16 | g (float[1,4,8,8] x, float[1,6,6,2] i) => (float[1,4,6,6] y) { y = GridSample<mode="bicubic">(x, i) }
einsum | | 13 | g (float[2,3] a, float[3,4] b) => (float[2,4] y) { y = Einsum<equation="ij,jk->ik">(a, b) }
einsum ellipsis | einsum | 13 | g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y) { y = Einsum<equation="...ij,...jk->...ik">(a, b) }
einsum diagonal | einsum | 13 | g (float[3,3] a) => (float[3] y) { y = Einsum<equation="ii->i">(a) }
det | operator | 13 | g (float[2,3,3] x) => (float[2] y) { y = Det(x) }
bit shift | operator | 13 | g (uint8[4] x, uint8[4] z) => (uint8[4] y) { y = BitShift<direction="LEFT">(x, z) }
unique | operator | 13 | g (float[6] x) => (float[n] y) { y = Unique(x) }
compress | operator | 13 | g (float[6] x, bool[6] c) => (float[n] y) { y = Compress(x, c) }
max unpool | operator | 13 | g (float[1,1,4,4] x) => (float[1,1,4,4] y) { a, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(a, i) }
string normalizer | operator | 13 | g (string[1] x) => (string[1] y) { y = StringNormalizer<case_change_action="LOWER", locale="C">(x) }

top k | | 13 | g (float[1,100] x) => (float[1,10] v, int64[1,10] i) <int64[1] k = {10}> { v, i = TopK(x, k) }
top k 5000 | topk-large | 13 | g (float[1,6000] x) => (float[1,5000] v, int64[1,5000] i) <int64[1] k = {5000}> { v, i = TopK(x, k) }
top k 3840 | | 13 | g (float[1,6000] x) => (float[1,3840] v, int64[1,3840] i) <int64[1] k = {3840}> { v, i = TopK(x, k) }
top k computed | int64-io | 13 | g (float[1,100] x, int64[1] k) => (float[1,n] v, int64[1,n] i) { v, i = TopK(x, k) }
dilated max pool | pool-dilation | 13 | g (float[1,4,8,8] x) => (float[1,4,4,4] y) { y = MaxPool<kernel_shape=[3,3], dilations=[2,2], strides=[1,1]>(x) }
dilated max pool padded | pool-dilation | 13 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(x) }
dilated average pool | pool-dilation | 19 | g (float[1,4,8,8] x) => (float[1,4,4,4] y) { y = AveragePool<kernel_shape=[3,3], dilations=[2,2]>(x) }
max pool indices | pool-indices | 13 | g (float[1,4,8,8] x) => (float[1,4,4,4] y, int64[1,4,4,4] i) { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }
max pool 1d | | 13 | g (float[1,4,8] x) => (float[1,4,4] y) { y = MaxPool<kernel_shape=[2], strides=[2]>(x) }
max pool ceil | | 13 | g (float[1,4,9,9] x) => (float[1,4,5,5] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x) }

non zero | plugin-missing | 13 | g (float[4,8] x) => (int64[2,n] y) { y = NonZero(x) }
non max suppression | data-dependent | 13 | g (float[1,20,4] b, float[1,3,20] s) => (int64[n,3] y) <int64[1] m = {5}, float[1] t = {0.5}, float[1] c = {0.1}> { y = NonMaxSuppression(b, s, m, t, c) }
scatter nd | | 13 | g (float[4,4] x, float[2,4] u) => (float[4,4] y) <int64[2,1] i = {1,3}> { y = ScatterND(x, i, u) }
scatter nd add | scatter-reduction | 16 | g (float[4,4] x, float[2,4] u) => (float[4,4] y) <int64[2,1] i = {1,3}> { y = ScatterND<reduction="add">(x, i, u) }
scatter nd max | scatter-reduction | 18 | g (float[4,4] x, float[2,4] u) => (float[4,4] y) <int64[2,1] i = {1,3}> { y = ScatterND<reduction="max">(x, i, u) }
scatter elements | | 13 | g (float[4,4] x, float[1,4] u) => (float[4,4] y) <int64[1,4] i = {1,3,0,2}> { y = ScatterElements<axis=0>(x, i, u) }
scatter elements add | scatter-elements-reduction | 16 | g (float[4,4] x, float[1,4] u) => (float[4,4] y) <int64[1,4] i = {1,3,0,2}> { y = ScatterElements<axis=0, reduction="add">(x, i, u) }
scatter | scatter | 9 | g (float[4,4] x, float[1,4] u) => (float[4,4] y) <int64[1,4] i = {1,3,0,2}> { y = Scatter<axis=0>(x, i, u) }

dynamic sides | dynamic-shape | 13 | g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }
unknown rank | unknown-rank | 13 | g (float[] x) => (float y) { y = Relu(x) }
dynamic reshape | dynamic-shape | 13 | g (float[N,4,H,W] x) => (float[N,4,M] y) <int64[3] s = {0,4,-1}> { y = Reshape(x, s) }

gather negative | | 13 | g (float[4,4] x) => (float[2,4] y) <int64[2] i = {-1,0}> { y = Gather<axis=0>(x, i) }
slice negative step | | 13 | g (float[1,4,8] x) => (float[1,4,8] y) <int64[1] b = {-1}, int64[1] e = {-9223372036854775807}, int64[1] a = {2}, int64[1] s = {-1}> { y = Slice(x, b, e, a, s) }
slice input axes | slice-axes-computed | 13 | g (float[1,4,8] x, int64[1] a) => (float[p,q,r] y) <int64[1] b = {0}, int64[1] e = {1}> { y = Slice(x, b, e, a) }
cast chain | cast-chain | 13 | g (float[1,4] x) => (float[1,4] y) { a = Cast<to=6>(x) b = Cast<to=7>(a) y = Cast<to=1>(b) }
reshape zero | | 13 | g (float[1,4,8,8] x) => (float[1,4,64] y) <int64[3] s = {0,0,-1}> { y = Reshape(x, s) }
reshape allow zero | | 14 | g (float[1,4,8,8] x) => (float[1,4,64] y) <int64[3] s = {1,4,64}> { y = Reshape<allowzero=1>(x, s) }
squeeze input axes | axes-computed | 13 | g (float[1,4,1] x, int64[1] a) => (float[p,q] y) { y = Squeeze(x, a) }
cumsum input axis | cumsum-axis-computed | 13 | g (float[3,4] x, int64 a) => (float[3,4] y) { y = CumSum(x, a) }
one hot | | 13 | g (int64[4] x) => (float[4,5] y) <int64 d = {5}, float[2] v = {0.0,1.0}> { y = OneHot(x, d, v) }
reduce axes input | axes-computed | 13 | g (float[3,4] x, int64[1] a) => (float[p,q] y) { y = ReduceSum(x, a) }

identity and dropout | no-op | 13 | g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Identity(x) b = Relu(a) c = Dropout(b) y = Identity(c) }
dropout mask | no-op | 13 | g (float[1,4] x) => (float[1,4] y, bool[1,4] m) { a = Relu(x) y, m = Dropout(a) }
dropout training | dropout-training | 13 | g (float[1,4] x) => (float[1,4] y) <float r = {0.5}, bool t = {1}> { y = Dropout(x, r, t) }
constant node | constant-node | 13 | g (float[1,4] x) => (float[1,4] y) { c = Constant<value = float {2.0}>() y = Mul(x, c) }
constant node ints | constant-integers | 13 | g (float[1,4] x) => (float[2,2] y) { c = Constant<value_ints = [2,2]>() y = Reshape(x, c) }
constant node int | constant-integer | 13 | g (float[1,4] x) => (float[1] y) { c = Constant<value_int = 2>() y = Gather<axis=1>(x, c) }
batch normalization | | 13 | g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] s = {1,2}, float[2] b = {0.1,0.2}, float[2] m = {0.1,0.2}, float[2] v = {1,2}> { y = BatchNormalization(x, s, b, m, v) }
batch normalization training | training | 15 | g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[2] rm, float[2] rv) <float[2] s = {1,2}, float[2] b = {0.1,0.2}, float[2] m = {0.1,0.2}, float[2] v = {1,2}> { y, rm, rv = BatchNormalization<training_mode=1>(x, s, b, m, v) }
batch normalization old training | training | 9 | g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] s = {1,2}, float[2] b = {0.1,0.2}, float[2] m = {0.1,0.2}, float[2] v = {1,2}> { y, rm, rv, sm, sv = BatchNormalization(x, s, b, m, v) }

if | control-flow | 13 | g (float[1,4] x, bool c) => (float[1,4] y) { y = If(c) <then_branch = t () => (float[1,4] yt) { yt = Relu(x) }, else_branch = e () => (float[1,4] ye) { ye = Neg(x) }> }
if shapes | control-flow-shape | 13 | g (float[1,4] x, bool c) => (float[n,4] y) { y = If(c) <then_branch = t () => (float[1,4] yt) { yt = Relu(x) }, else_branch = e () => (float[2,4] ye) { ye = Concat<axis=0>(x, x) }> }
if ranks | control-flow-rank | 13 | g (float[1,4] x, bool c) => (float y) { y = If(c) <then_branch = t () => (float[1,4] yt) { yt = Relu(x) }, else_branch = e () => (float[4] ye) { ye = Squeeze(x) }> }
loop | control-flow | 13 | g (float[1,4] x) => (float[1,4] y) <int64 n = {3}, bool c = {1}> { y = Loop(n, c, x) <body = b (int64 i, bool ci, float[1,4] v) => (bool co, float[1,4] vo) { co = Identity(ci) vo = Relu(v) }> }
scan | control-flow | 13 | g (float[1] s, float[3,1] x) => (float[1] t, float[3,1] y) { t, y = Scan<num_scan_inputs=1, body = b (float[1] si, float[1] xi) => (float[1] so, float[1] yo) { so = Add(si, xi) yo = Identity(so) }>(s, x) }

dequantize uint8 | quantized-uint8 | 13 | g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, uint8 z = {0}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }
quantize zero point | zero-point | 13 | g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, int8 z = {3}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }
quantize uint8 zero point | zero-point-128 | 13 | g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, uint8 z = {128}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }
quantize | | 13 | g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, int8 z = {0}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }
quantize no zero point | quantized-no-zero-point | 13 | g (float[1,4] x) => (float[1,4] y) <float s = {0.1}> { a = QuantizeLinear(x, s) y = DequantizeLinear(a, s) }
dequantize no zero point | dequantized-no-zero-point | 13 | g (int8[1,4] x) => (float[1,4] y) <float s = {0.1}> { y = DequantizeLinear(x, s) }
quantize zero scale | quantized-scale | 13 | g (float[1,4] x) => (float[1,4] y) <float s = {0.0}, int8 z = {0}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }
dequantize int32 | quantized-int32 | 13 | g (float[1,4] x) => (float[1,4] y) <int32[4] b = {10,-20,30,40}, float s = {0.1}, int32 z = {0}> { d = DequantizeLinear(b, s, z) y = Add(x, d) }
dynamic quantize | qoperator | 13 | g (float[1,4] x) => (uint8[1,4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }
conv integer | qoperator | 13 | g (uint8[1,1,4,4] x, uint8[1,1,2,2] w) => (int32[1,1,3,3] y) { y = ConvInteger(x, w) }
qlinear matmul | qoperator | 13 | g (int8[2,3] a, int8[3,4] b) => (int8[2,4] y) <float s = {0.1}, int8 z = {0}> { y = QLinearMatMul(a, s, z, b, s, z, s, z) }
top k 10 | | 10 | g (float[1,100] x) => (float[1,10] v, int64[1,10] i) <int64[1] k = {10}> { v, i = TopK(x, k) }
upsample 11 | upsample-removed | 11 | g (float[1,4,8,8] x) => (float[1,4,16,16] y) <float[4] s = {1,1,2,2}> { y = Upsample<mode="nearest">(x, s) }
float range | range-computed | 13 | g (float a, float b, float c) => (float[n] y) { y = Range(a, b, c) }
eye like dynamic | eyelike-dynamic | 13 | g (float[N,M] x) => (float[N,M] y) { y = EyeLike(x) }
roi align | roi-align | 16 | g (float[1,1,8,8] x, float[1,4] r, int64[1] b) => (float[1,1,1,1] y) { y = RoiAlign(x, r, b) }
uint8 reshape | uint8-inside | 13 | g (uint8[4] x) => (float[2,2] y) <int64[2] s = {2,2}> { a = Reshape(x, s) y = Cast<to=1>(a) }
uint8 multiplied | uint8-arithmetic | 14 | g (uint8[4] x) => (uint8[4] y) { y = Mul(x, x) }
int8 input | | 13 | g (int8[4] x) => (float[4] y) { y = Cast<to=1>(x) }
layer normalization statistics | extra-outputs | 17 | g (float[1,4,8] x) => (float[1,4,8] y, float[1,4,1] m) <float[8] s = {1,2,3,4,5,6,7,8}> { y, m = LayerNormalization<axis=-1>(x, s) }
batch normalization unused outputs | training | 9 | g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] s = {1,2}, float[2] b = {0.1,0.2}, float[2] m = {0.1,0.2}, float[2] v = {1,2}> { y, rm, rv, sm, sv = BatchNormalization(x, s, b, m, v) }
empty indices | empty-outputs-counted | 13 | g (float[1,4,8,8] x) => (float[1,4,4,4] y) { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }
max pool unused indices | unused-outputs | 13 | g (float[1,4,8,8] x) => (float[1,4,4,4] y) { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }
pool of four dimensions | window-rank | 13 | g (float[1,3,4,4,4,4] x) => (float[1,3,3,3,3,3] y) { y = AveragePool<kernel_shape=[2,2,2,2]>(x) }
quantize int16 | quantized-wide | 21 | g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, int16 z = {0}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }
softmax 12 | opset-old | 8 | g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=1>(x) }
if constant | constant-if | 13 | g (float[1,4] x) => (float[1,4] y) <bool c = {1}> { y = If(c) <then_branch = t () => (float[1,4] yt) { yt = Relu(x) }, else_branch = e () => (float[4] ye) { ye = Squeeze(x) }> }
function free | | 13 | g (float[1,4] x) => (float[1,4] y) { a = Abs(x) b = Sqrt(a) y = Sub(b, x) }
"""

_WEIGHTED = """
conv | | 13 | g (float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w3443) }
conv asymmetric pads | | 13 | g (float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv<kernel_shape=[3,3], pads=[0,0,2,2]>(x, w3443) }
conv auto pad | auto-pad | 13 | g (float[1,3,9,9] x) => (float[1,4,5,5] y) { y = Conv<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x, w3443) }
conv auto pad lower | auto-pad | 13 | g (float[1,3,8,8] x) => (float[1,4,4,4] y) { y = Conv<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_LOWER">(x, w3443) }
conv auto pad dynamic | auto-pad | 13 | g (float[1,3,H,W] x) => (float[1,4,h,w] y) { y = Conv<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x, w3443) }
conv input weights | | 13 | g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv<kernel_shape=[3,3]>(x, w) }
conv then batch normalization | foldable-batchnorm | 13 | g (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4] s = {1,2,3,4}, float[4] b = {0.1,0.2,0.3,0.4}, float[4] m = {0.1,0.2,0.3,0.4}, float[4] v = {1,2,3,4}> { a = Conv<kernel_shape=[3,3]>(x, w3443) y = BatchNormalization(a, s, b, m, v) }
conv transpose | | 13 | g (float[1,3,4,4] x) => (float[1,4,8,8] y) { y = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(x, w34t) }
conv transpose output padding | | 13 | g (float[1,3,4,4] x) => (float[1,4,9,9] y) { y = ConvTranspose<kernel_shape=[2,2], strides=[2,2], output_padding=[1,1]>(x, w34t) }
conv transpose output shape | output-shape | 13 | g (float[1,3,4,4] x) => (float[1,4,7,7] y) { y = ConvTranspose<kernel_shape=[2,2], strides=[2,2], output_shape=[7,7]>(x, w34t) }
average pool auto pad | auto-pad | 13 | g (float[1,3,9,9] x) => (float[1,3,5,5] y) { y = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x) }
"""


def _weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Add the weights that the graph names: ``w3443`` (4,3,3,3) and ``w34t`` (3,4,2,2)."""
    used = {name for node in proto.graph.node for name in node.input}
    random = np.random.default_rng(0)
    for name, shape in (("w3443", (4, 3, 3, 3)), ("w34t", (3, 4, 2, 2))):
        if name in used:
            values = random.normal(0, 0.3, shape).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


def _of_text(opset: int, body: str) -> Callable[[], onnx.ModelProto]:
    ir = 7 if opset <= 15 else 8 if opset <= 18 else 9 if opset <= 20 else 10 if opset <= 22 else 11
    return lambda: _weights(model(body, opset, ir))


def _texts() -> Iterator[Case]:
    for line in (_TEXTS + _WEIGHTED).splitlines():
        if line.strip():
            name, code, opset, body = (part.strip() for part in line.split("|", 3))
            case = Case(name, code, _of_text(int(opset), body))
            yield _left_out(case, _LEFT_OUT[name]) if name in _LEFT_OUT else case


# ONNX's text form has no outputs without a name.
_LEFT_OUT = {"empty indices": 1}

_RELU = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Relu(x) y = Neg(a) }"


def _initializers_as_inputs() -> onnx.ModelProto:
    proto = model("g (float[1,4] x) => (float[1,4] y) <float[4] c = {1,2,3,4}> { y = Mul(x, c) }",
                  9, 3)  # fmt: skip
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [4]))
    return proto


def _unordered() -> onnx.ModelProto:
    proto = model(_RELU)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    return proto


def _duplicate_names() -> onnx.ModelProto:
    proto = model(_RELU)
    for node in proto.graph.node:
        node.name = "same"
    return proto


def _odd_names() -> onnx.ModelProto:
    proto = model(_RELU)
    proto.graph.node[0].name = "back\\slash \u00e9\n'quote'"
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "a b:0;\u4e2d/\t"
    return proto


def _output_not_produced() -> onnx.ModelProto:
    proto = model(_RELU)
    proto.graph.output[0].name = "nowhere"
    return proto


def _output_without_type() -> onnx.ModelProto:
    proto = model(_RELU)
    proto.graph.output[0].ClearField("type")
    return proto


def _no_outputs() -> onnx.ModelProto:
    proto = model(_RELU)
    del proto.graph.output[:]
    return proto


def _optional_output_left_out() -> onnx.ModelProto:
    proto = model("g (float[1,4] x) => (float[1,4] y) { a = Relu(x) y, m = Dropout(a) }")
    proto.graph.node[1].output[1] = ""
    return proto


def _left_out(case: Case, at: int) -> Case:
    """The same graph, with an output of its node left without a name."""

    def make() -> onnx.ModelProto:
        proto = case.make()
        proto.graph.node[0].output[at] = ""
        return proto

    return Case(case.name, case.code, make)


def _output_is_input() -> onnx.ModelProto:
    proto = model(_RELU)
    proto.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8]))
    return proto


def _ir(version: int) -> Callable[[], onnx.ModelProto]:
    return lambda: model(_RELU, 13, version)


def _external() -> onnx.ModelProto:
    proto = model("g (float[1,4] x) => (float[1,4] y) <float[4] c = {1,2,3,4}> { y = Mul(x, c) }")
    tensor = proto.graph.initializer[0]
    del tensor.float_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return proto


def _custom(domain: str, operator: str, attributes: str = "") -> Callable[[], onnx.ModelProto]:
    body = f"g (float[1,4] x) => (float[1,4] y) {{ y = {domain}.{operator}{attributes}(x) }}"
    return lambda: model(body, domains=f'"{domain}": 1')


def _fused_conv() -> onnx.ModelProto:
    body = (
        "g (float[1,3,8,8] x) => (float[1,4,6,6] y) "
        '{ y = com.microsoft.FusedConv<kernel_shape=[3,3], activation="Relu">(x, w3443) }'
    )
    return _weights(model(body, domains='"com.microsoft": 1'))


def _qlinear_conv() -> onnx.ModelProto:
    body = (
        "g (uint8[1,3,8,8] x) => (uint8[1,4,6,6] y) <float s = {0.1}, uint8 z = {128}> "
        "{ y = QLinearConv<kernel_shape=[3,3]>(x, s, z, w, s, z, s, z) }"
    )
    proto = model(body)
    values = np.random.default_rng(0).integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    return proto


def _half_underflow() -> onnx.ModelProto:
    proto = model("g (float16[1,4] x) => (float16[1,4] y) { y = Mul(x, c) }")
    values = np.array([1e-6, 2e-7, 6e-8, 1.0], np.float16)
    proto.graph.initializer.append(numpy_helper.from_array(values, "c"))
    return proto


def _int64_weights() -> onnx.ModelProto:
    proto = model("g (float[1,8] x) => (float[1,8] y) { y = Gather<axis=1>(x, i) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(8, dtype=np.int64), "i"))
    return proto


def _malformed() -> onnx.ModelProto:
    proto = model(_RELU)
    proto.graph.node[0].op_type = "Conv"
    return proto


def _function() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["": 15, "my": 1]>'
        "g (float[2,4] x) => (float[2,4] y) { y = my.twice(x) }"
        '<opset_import: ["": 15], domain: "my"> twice (a) => (b) { b = Add(a, a) }'
    )


_MADE = (
    Case("convolution without weights", "malformed", _malformed),
    Case("function", "functions", _function),
    Case("initializers as inputs", "initializers-as-inputs", _initializers_as_inputs),
    Case("not in order", "order", _unordered),
    Case("duplicate node names", "duplicate-names", _duplicate_names),
    Case("odd names", "odd-names", _odd_names),
    Case("output not produced", "output-not-produced", _output_not_produced),
    Case("output without type", "output-untyped", _output_without_type),
    Case("no outputs", "no-outputs", _no_outputs),
    Case("optional output left out", "no-op", _optional_output_left_out),
    Case("output is an input", "output-is-input", _output_is_input),
    Case("IR version 3", "", _ir(3)),
    Case("IR version 11", "ir-version", _ir(11)),
    Case("IR version 12", "ir-version", _ir(12)),
    Case("IR version 13", "ir-version", _ir(13)),
    Case("IR version 14", "ir-version", _ir(14)),
    Case("IR version 99", "ir-version", _ir(99)),
    Case("external data", "external-data", _external),
    Case("custom domain", "custom-operator", _custom("my.ops", "Frobnicate")),
    Case("quick gelu", "operator-decomposed", _custom("com.microsoft", "QuickGelu")),
    Case("microsoft gelu", "operator-decomposed", _custom("com.microsoft", "Gelu")),
    Case("fused conv", "operator-decomposed", _fused_conv),
    Case("qlinear conv", "qoperator", _qlinear_conv),
    Case("half underflow", "half-underflow", _half_underflow),
    Case("int64 indices", "int64-constant", _int64_weights),
)


def cases() -> tuple[Case, ...]:
    """Every case, those with nothing to find included; names are unique."""
    found = (*_texts(), *_MADE)
    assert len({case.name for case in found}) == len(found)
    return found
