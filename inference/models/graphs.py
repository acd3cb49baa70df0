"""models: the operations of a SavedModel's graph that a classifier may have; all others are refused. Reads one file.

A graph is a program, and TensorFlow has some 1,900 operations, a good part of which read or write files, talk to hosts
or call Python. So that what is not known to be harmless does not pass, those that pass are listed, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from inference.errors import ModelSourceError

_ARITHMETIC: Final = """
Abs AccumulateNV2 Acos Acosh Add AddN AddV2 All Angle Any ApproximateEqual ApproxTopK ArgMax ArgMin Asin Asinh Atan
Atan2 Atanh BatchMatMul BatchMatMulV2 BatchMatMulV3 BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0
BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc Bincount BitwiseAnd BitwiseOr BitwiseXor Bucketize Cast Ceil
Cholesky ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum CumulativeLogsumexp Dawsn DenseBincount
Digamma Div DivNoNan Einsum Equal Erf Erfc Erfinv EuclideanNorm Exp Expint Expm1 FFT FFT2D FFT3D Floor FloorDiv FloorMod
FresnelCos FresnelSin Greater GreaterEqual HistogramFixedWidth IFFT IFFT2D IFFT3D IRFFT IRFFT2D IRFFT3D Igamma Igammac
Imag Inv Invert IsFinite IsInf IsNan L2Loss LeftShift Less LessEqual Lgamma LinSpace Log Log1p LogMatrixDeterminant
LogicalAnd LogicalNot LogicalOr MatMul MatrixDeterminant MatrixExponential MatrixInverse MatrixLogarithm MatrixSolve
MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max Maximum Mean Min Minimum Mod Mul MulNoNan Ndtri Neg NextAfter
NotEqual NthElement Polygamma PopulationCount Pow Prod Qr RFFT RFFT2D RFFT3D Real RealDiv Reciprocal RightShift Rint
Round Rsqrt SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum
SegmentSumV2 SelfAdjointEigV2 Sigmoid Sign Sin Sinh SparseMatMul SparseSegmentMean SparseSegmentMeanWithNumSegments
SparseSegmentSum SparseSegmentSumWithNumSegments SparseTensorDenseMatMul SparseToDense Spence Sqrt Square
SquaredDifference Sub Sum Svd Tan Tanh TopK TopKV2 TruncateDiv TruncateMod UnsortedSegmentMax UnsortedSegmentMin
UnsortedSegmentProd UnsortedSegmentSum Xdivy Xlog1py Xlogy Zeta
"""

_LAYERS: Final = """
AvgPool AvgPool3D BatchNormWithGlobalNormalization BiasAdd BiasAddV1 BlockLSTM BlockLSTMV2 Conv Conv2D Conv3D
DataFormatDimMap DataFormatVecPermute DepthwiseConv2dNative Dequantize Dilation2D Elu FakeQuantWithMinMaxArgs
FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel FractionalAvgPool FractionalMaxPool FusedBatchNorm
FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D GRUBlockCell InTopK InTopKV2 LRN LSTMBlockCell
LeakyRelu LogSoftmax MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax QuantizeAndDequantize QuantizeAndDequantizeV2
QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 Relu Relu6 Selu Softmax SoftmaxCrossEntropyWithLogits
Softplus Softsign SparseSoftmaxCrossEntropyWithLogits
"""

_GRADIENTS: Final = """
AvgPoolGrad BiasAddGrad BroadcastGradientArgs Conv2DBackpropFilter Conv2DBackpropInput Conv3DBackpropFilterV2
Conv3DBackpropInputV2 DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput EluGrad
FakeQuantWithMinMaxVarsGradient FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 InvGrad LRNGrad
LeakyReluGrad MaxPoolGrad MaxPoolGradV2 MirrorPadGrad PreventGradient ReciprocalGrad Relu6Grad ReluGrad
ResizeBicubicGrad ResizeBilinearGrad ResizeNearestNeighborGrad RsqrtGrad SeluGrad SigmoidGrad SoftplusGrad SoftsignGrad
SqrtGrad StopGradient StridedSliceGrad TanhGrad
"""
"""Of layers with a gradient of their own, which some exports carry along."""

_ARRAYS: Final = """
BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastTo CheckNumerics CheckNumericsV2 Concat ConcatOffset ConcatV2
Const DeepCopy DepthToSpace Diag DiagPart DynamicPartition DynamicStitch Empty EnsureShape ExpandDims
ExtractImagePatches ExtractVolumePatches Fill Gather GatherNd GatherV2 GuaranteeConst HostConst Identity IdentityN
InplaceAdd InplaceSub InplaceUpdate InvertPermutation ListDiff LowerBound MatrixBandPart MatrixDiag MatrixDiagPart
MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MirrorPad
OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Placeholder PlaceholderV2 PlaceholderWithDefault
Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd Select SelectV2 Shape ShapeN
Size Slice Snapshot SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice TensorArrayCloseV3
TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3
TensorArrayV3 TensorArrayWriteV3 TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape
TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2
TensorListSetItem TensorListSplit TensorListStack EmptyTensorList TensorScatterAdd TensorScatterMax TensorScatterMin
TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile Transpose ConjugateTranspose Unique UniqueV2
UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UpperBound Where ZerosLike
"""

_IMAGES: Final = """
AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize DecodeBmp DecodeImage
DecodeJpeg DecodePng DrawBoundingBoxes DrawBoundingBoxesV2 ExtractGlimpse ExtractGlimpseV2 ExtractJpegShape HSVToRGB
ImageProjectiveTransformV2 ImageProjectiveTransformV3 NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3
NonMaxSuppressionV4 NonMaxSuppressionV5 RGBToHSV ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor
SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 ScaleAndTranslate
"""

_RANDOM: Final = """
Multinomial RandomGamma RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip RngSkip
StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt
StatelessMultinomial StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg
StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformFullInt
StatelessRandomUniformFullIntV2 StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
"""
"""Of augmentation and dropout, in what an export keeps for training."""

_FLOW: Final = """
Assert Case ControlTrigger Enter Exit FakeParam For If LoopCond Merge NextIteration NoOp PartitionedCall RefEnter
RefExit RefIdentity RefMerge RefNextIteration RefSwitch StatefulPartitionedCall StatelessCase StatelessIf
StatelessWhile Switch While _Arg _Retval
"""

_VARIABLES: Final = """
Assign AssignAdd AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp DisableCopyOnRead
IsVariableInitialized ReadVariableOp ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterUpdate
VarHandleOp VarIsInitializedOp Variable VariableShape VariableV2
"""

_TABLES: Final = """
AsString HashTable HashTableV2 InitializeTable InitializeTableV2 LookupTableExportV2 LookupTableFind LookupTableFindV2
LookupTableImport LookupTableImportV2 LookupTableSize LookupTableSizeV2 MutableHashTableV2 StringFormat StringLength
StringLower StringToNumber StringUpper
"""
"""Tables out of constants; one that is filled from a file is none of them."""

INFERENCE_OPS: Final = frozenset(
    " ".join((_ARITHMETIC, _LAYERS, _GRADIENTS, _ARRAYS, _IMAGES, _RANDOM, _FLOW, _VARIABLES, _TABLES)).split()
)
"""What any part of a graph may have: it reaches no file, host or Python function, whatever its inputs are."""

_LOADING_OPS: Final = frozenset({"RestoreV2", "RestoreSlice", "Restore"})
_SAVING_OPS: Final = frozenset(
    {"SaveV2", "MergeV2Checkpoints", "ShardedFilename", "ShardedFilespec", "StaticRegexFullMatch", "StringJoin"}
)
_SAVER_OPS: Final = _LOADING_OPS | _SAVING_OPS
"""How every SavedModel keeps its weights: in the graph, but apart from what answers and from what starts it."""

_STARTING_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op", "saved_model_init_op", "table_initializer")
_MOST_NAMED: Final = 8


def check_graph(folder: Path, source: str) -> None:
    """Refuse a SavedModel whose graph has other operations than inference needs.

    What saves and restores weights passes where neither an answer nor the start of the model leads to it.

    Raises:
        ModelSourceError: names the operations; or ``saved_model.pb`` is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    parsed = saved_model_pb2.SavedModel()
    try:
        parsed.ParseFromString((folder / "saved_model.pb").read_bytes())
        foreign = {name for graph in parsed.meta_graphs for name in _Graph(graph).foreign()}
    except DecodeError as error:
        raise ModelSourceError(
            f"{source} holds a damaged saved_model.pb ({error}); fetch or export it again"
        ) from error
    if foreign:
        named = ", ".join(repr(name[:60])[1:-1] for name in sorted(foreign)[:_MOST_NAMED])
        more = f" and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
        raise ModelSourceError(
            f"the graph of {source} has the operations {named}{more}, which are none of those that a classifier of "
            "images needs and may reach beyond the model; export it without them, from the layers that make the answer"
        )


class _Graph:
    """One of a SavedModel's graphs: nodes, and functions that they call."""

    def __init__(self, meta_graph: Any) -> None:  # noqa: ANN401 - protobuf's classes have no types here
        self._meta_graph = meta_graph
        library = meta_graph.graph_def.library
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._functions = {function.signature.name: function for function in library.function}
        self._every_node = [*meta_graph.graph_def.node, *(node for f in library.function for node in f.node_def)]

    def foreign(self) -> set[str]:
        """Return the names of the operations that must not be there, or not where they are."""
        calls = self._functions.keys()
        found = {node.op for node in self._every_node} - INFERENCE_OPS - _SAVER_OPS - calls
        answering = set(self._reached(self._answering_nodes(), self._answering_functions()))
        restoring = set(self._reached([self._meta_graph.saver_def.restore_op_name], []))
        # A function must not take the name of an operation, lest what is called be another than what was looked at.
        shadowed = calls & (INFERENCE_OPS | _SAVER_OPS)
        return found | shadowed | (answering & _SAVER_OPS) | (restoring & _SAVING_OPS)

    def _answering_nodes(self) -> Iterator[str]:
        """Yield the nodes that are asked for an answer, or when the model is loaded."""
        from tensorflow.core.framework import variable_pb2

        for signature in self._meta_graph.signature_def.values():
            for tensor in (*signature.inputs.values(), *signature.outputs.values()):
                yield tensor.name
                yield from (part.name for part in tensor.composite_tensor.components)
                coo = tensor.coo_sparse
                yield from (coo.values_tensor_name, coo.indices_tensor_name, coo.dense_shape_tensor_name)
        for name, collection in self._meta_graph.collection_def.items():
            if name in _STARTING_COLLECTIONS:
                yield from collection.node_list.value
            if name.endswith("variables"):
                for text in collection.bytes_list.value:
                    variable = variable_pb2.VariableDef.FromString(text)
                    yield from (variable.initializer_name, variable.initial_value_name, variable.snapshot_name)

    def _answering_functions(self) -> Iterator[str]:
        """Yield the functions that a loaded model offers, or that TensorFlow may take in place of others."""
        objects = self._meta_graph.object_graph_def
        yield from objects.concrete_functions
        for node in objects.nodes:
            yield from node.function.concrete_functions
            yield node.bare_concrete_function.concrete_function_name
        library = self._meta_graph.graph_def.library
        yield from (gradient.gradient_func for gradient in library.gradient)
        yield from (gradient.gradient_func for gradient in library.registered_gradients)
        yield from (function.signature.name for function in library.function if "api_implements" in function.attr)

    def _reached(self, nodes: Iterable[str], functions: Iterable[str]) -> Iterator[str]:
        """Yield the operations that are executed for nodes and functions."""
        waiting_nodes, waiting = [_node_name(name) for name in nodes], list(functions)
        seen_nodes: set[str] = set()
        seen: set[str] = set()
        while waiting_nodes or waiting:
            if waiting_nodes:
                name = waiting_nodes.pop()
                if name in seen_nodes or name not in self._nodes:
                    continue
                seen_nodes.add(name)
                bodies = [self._nodes[name]]
                waiting_nodes += [_node_name(text) for text in bodies[0].input]
            else:
                name = waiting.pop()
                if name in seen or name not in self._functions:
                    continue
                seen.add(name)
                bodies = list(self._functions[name].node_def)
            for node in bodies:
                yield node.op
                waiting.append(node.op)
                for value in node.attr.values():
                    waiting += _called(value)


def _node_name(text: str) -> str:
    return text.removeprefix("^").partition(":")[0]


def _called(value: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the functions that an attribute of a node names, one as a parameter of another included."""
    for function in (value.func, *value.list.func):
        if function.name:
            yield function.name
        for inner in function.attr.values():
            yield from _called(inner)
