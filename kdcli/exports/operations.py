"""TensorFlow operations that every converter supports: a model of them can be exported to every format."""

from __future__ import annotations

# Each was converted to LiteRT and to ONNX in a Keras layer, with a batch of any size.
CONVERTIBLE_OPERATIONS = frozenset(
    """
    AddV2 AvgPool BatchMatMulV2 BiasAdd Cast ConcatV2 Const Conv2D Conv2DBackpropInput DepthwiseConv2dNative
    Elu Erfc ExpandDims GatherV2 Identity IdentityN LeakyRelu Less MatMul Max MaxPool Maximum Mean Minimum Mul
    Neg NoOp Pack Pad Placeholder Prod ReadVariableOp RealDiv Relu Relu6 Reshape ResizeBilinear Rsqrt SelectV2
    Shape Sigmoid Softmax Softplus Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum
    Tanh Tile Transpose
    """.split()
)
