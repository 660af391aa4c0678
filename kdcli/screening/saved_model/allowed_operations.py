"""The operations that an untrusted graph may run: those that only compute, listed by name.

A list of forbidden operations would never be complete: TensorFlow has about 1,900, and each version adds more. An
operation in none of these groups is refused wherever it can run.
"""

from __future__ import annotations

# Why the operations of a group are harmless, and their names.
GROUPS = {
    "move values between nodes and call functions of the same file": """
        Const Identity IdentityN NoOp Placeholder PlaceholderWithDefault StopGradient PreventGradient Snapshot
        EnsureShape CheckNumerics CheckNumericsV2 Assert ControlTrigger DeepCopy Empty EmptyTensorList
        PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case StatelessCase For
        Switch Merge Enter Exit NextIteration LoopCond RefSwitch RefMerge RefEnter RefExit RefNextIteration
        RefIdentity DeviceIndex _Arg _Retval FakeParam InvertPermutation MapDefun Print
        StringFormat Timestamp""",
    "read and set the model's own variables, which live in memory": """
        VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VarIsInitializedOp
        VariableShape DestroyResourceOp DisableCopyOnRead ResourceGather ResourceGatherNd ResourceScatterAdd
        ResourceScatterSub ResourceScatterUpdate ResourceScatterNdUpdate ResourceStridedSliceAssign Variable
        VariableV2 Assign AssignAdd AssignSub IsVariableInitialized ScatterUpdate TemporaryVariable
        DestroyTemporaryVariable MutexLock MutexV2 ConsumeMutexLock""",
    "lists and arrays of tensors, for loops": """
        TensorListReserve TensorListFromTensor TensorListGetItem TensorListSetItem TensorListStack TensorListGather
        TensorListScatter TensorListScatterV2 TensorListScatterIntoExistingList TensorListLength TensorListResize
        TensorListElementShape TensorListPushBack TensorListPopBack TensorListPushBackBatch TensorListConcat
        TensorListConcatV2 TensorListConcatLists TensorListSplit TensorArrayV3 TensorArrayReadV3 TensorArrayWriteV3
        TensorArrayGatherV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArrayCloseV3 TensorArrayConcatV3
        TensorArraySplitV3 TensorArrayGradV3 Stack StackV2 StackPush StackPushV2 StackPop StackPopV2 StackClose
        StackCloseV2 TensorMapErase TensorMapHasKey TensorMapInsert TensorMapLookup TensorMapSize
        TensorMapStackKeys EmptyTensorMap OptionalFromValue OptionalNone OptionalHasValue OptionalGetValue""",
    "shapes and the order of elements": """
        Shape ShapeN Size Rank Reshape ExpandDims Squeeze Pack Unpack ParallelConcat Concat ConcatV2 ConcatOffset
        Split SplitV Slice StridedSlice Gather GatherV2 GatherNd ScatterNd ScatterNdNonAliasingAdd TensorScatterAdd
        TensorScatterSub TensorScatterUpdate TensorScatterMax TensorScatterMin TensorStridedSliceUpdate Tile
        Transpose ConjugateTranspose Reverse ReverseV2 ReverseSequence Roll Pad PadV2 MirrorPad Fill ZerosLike
        OnesLike Range LinSpace BroadcastTo BroadcastArgs BroadcastGradientArgs Where Select SelectV2 OneHot
        Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 ListDiff DynamicPartition DynamicStitch
        ParallelDynamicStitch SpaceToBatch SpaceToBatchND BatchToSpace BatchToSpaceND SpaceToDepth DepthToSpace
        MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag
        MatrixSetDiagV2 MatrixSetDiagV3 MatrixBandPart Diag DiagPart Bitcast UnravelIndex LowerBound UpperBound
        EditDistance InplaceUpdate InplaceAdd InplaceSub ExtractImagePatches
        ExtractVolumePatches TopK TopKV2 NthElement InTopK InTopKV2""",
    "arithmetic, element by element": """
        Abs Acos Acosh Add AddN AddV2 AccumulateNV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0
        BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1
        Betainc BitwiseAnd BitwiseOr BitwiseXor Bucketize Cast Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh
        Digamma Div DivNoNan Dawsn Equal Erf Erfc Erfinv Exp Expint Expm1 Floor FloorDiv FloorMod FresnelCos
        FresnelSin Greater GreaterEqual HistogramFixedWidth Igamma IgammaGradA Igammac Imag Inv Invert IsFinite
        IsInf IsNan LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod
        Mul MulNoNan Ndtri Neg NextAfter NotEqual Polygamma PopulationCount Pow Real RealDiv Reciprocal
        RightShift Rint Round Rsqrt Sigmoid Sign Sin Sinh Spence Sqrt Square SquaredDifference Sub Tan Tanh
        TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta QuantizeAndDequantize QuantizeAndDequantizeV2
        QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
        FakeQuantWithMinMaxVarsPerChannel Dequantize QuantizeV2 QuantizedConcat Requantize""",
    "sums, products and decompositions": """
        All Any Max Mean Min Prod Sum EuclideanNorm ArgMax ArgMin Cumprod Cumsum CumulativeLogsumexp SegmentMax
        SegmentMean SegmentMin SegmentProd SegmentSum SegmentMaxV2 SegmentMinV2 SegmentProdV2 SegmentSumV2
        UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum Bincount DenseBincount
        RaggedBincount MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 SparseMatMul Einsum Cross Cholesky
        MatrixDeterminant LogMatrixDeterminant MatrixInverse MatrixSolve MatrixSolveLs MatrixTriangularSolve
        MatrixExponential MatrixLogarithm MatrixSquareRoot TridiagonalSolve TridiagonalMatMul BandedTriangularSolve
        Lu Qr Svd SelfAdjointEig SelfAdjointEigV2 Eig L2Loss FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D IFFTND RFFT
        RFFT2D RFFT3D RFFTND IRFFT IRFFT2D IRFFT3D IRFFTND BatchFFT BatchIFFT""",
    "layers of networks": """
        Conv Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv2DBackpropInputV2 Conv3DBackpropInput
        Conv3DBackpropInputV2 Dilation2D BiasAdd BiasAddV1 AvgPool AvgPool3D MaxPool MaxPoolV2 MaxPool3D
        MaxPoolWithArgmax FractionalAvgPool FractionalMaxPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
        FusedPadConv2D FusedResizeAndPadConv2D LRN Relu Relu6 Elu Selu LeakyRelu Softplus Softsign Softmax
        LogSoftmax SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits LSTMBlockCell BlockLSTM
        BlockLSTMV2 GRUBlockCell CudnnRNN CudnnRNNV2 CudnnRNNV3 CudnnRNNParamsSize CudnnRNNCanonicalToParams
        CudnnRNNCanonicalToParamsV2 CTCLoss CTCLossV2 CTCGreedyDecoder CTCBeamSearchDecoder ApproxTopK""",
    "gradients of the above, and the steps of optimizers": """
        AvgPoolGrad AvgPool3DGrad MaxPoolGrad MaxPoolGradV2 MaxPoolGradGrad MaxPoolGradGradV2 MaxPool3DGrad
        MaxPool3DGradGrad MaxPoolGradWithArgmax BiasAddGrad Conv2DBackpropFilter Conv2DBackpropFilterV2
        Conv3DBackpropFilter Conv3DBackpropFilterV2 DepthwiseConv2dNativeBackpropFilter
        DepthwiseConv2dNativeBackpropInput Dilation2DBackpropFilter Dilation2DBackpropInput EluGrad SeluGrad
        ReluGrad Relu6Grad LeakyReluGrad SoftplusGrad SoftsignGrad SigmoidGrad TanhGrad SqrtGrad RsqrtGrad
        ReciprocalGrad InvGrad LRNGrad FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 MirrorPadGrad
        StridedSliceGrad ResizeBilinearGrad ResizeBicubicGrad ResizeNearestNeighborGrad CropAndResizeGradBoxes
        CropAndResizeGradImage FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVarsGradient
        FakeQuantWithMinMaxVarsPerChannelGradient QuantizeAndDequantizeV4Grad CudnnRNNBackprop CudnnRNNBackpropV2
        CudnnRNNBackpropV3 LSTMBlockCellGrad BlockLSTMGrad BlockLSTMGradV2 GRUBlockCellGrad FractionalAvgPoolGrad
        FractionalMaxPoolGrad SparseSegmentMeanGrad SparseSegmentSumGrad SparseSegmentSqrtNGrad
        ApplyAdam ApplyMomentum ApplyGradientDescent ApplyRMSProp ResourceApplyAdam ResourceApplyAdaMax
        ResourceApplyAdagrad ResourceApplyAdagradV2 ResourceApplyAdadelta ResourceApplyAdamWithAmsgrad
        ResourceApplyCenteredRMSProp ResourceApplyFtrl ResourceApplyFtrlV2 ResourceApplyGradientDescent
        ResourceApplyKerasMomentum ResourceApplyMomentum ResourceApplyRMSProp ResourceApplyAddSign
        ResourceApplyPowerSign ResourceSparseApplyAdagrad ResourceSparseApplyAdagradV2
        ResourceSparseApplyKerasMomentum ResourceSparseApplyMomentum ResourceSparseApplyRMSProp
        ResourceSparseApplyFtrl""",
    "images and sound, decoded from tensors (never from files) and resized": """
        DecodeImage DecodeJpeg DecodePng DecodeGif DecodeBmp DecodeWebP DecodeAndCropJpeg ExtractJpegShape
        EncodeJpeg EncodeJpegVariableQuality EncodePng DecodeWav EncodeWav ResizeArea ResizeBicubic ResizeBilinear
        ResizeNearestNeighbor ScaleAndTranslate CropAndResize ExtractGlimpse ExtractGlimpseV2 AdjustContrast
        AdjustContrastv2 AdjustHue AdjustSaturation HSVToRGB RGBToHSV RandomCrop SampleDistortedBoundingBox
        SampleDistortedBoundingBoxV2 StatelessSampleDistortedBoundingBox DrawBoundingBoxes DrawBoundingBoxesV2
        NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5
        NonMaxSuppressionWithOverlaps CombinedNonMaxSuppression GenerateBoundingBoxProposals
        ImageProjectiveTransformV2 ImageProjectiveTransformV3 AudioSpectrogram Mfcc""",
    "random numbers": """
        RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal ParameterizedTruncatedNormal
        RandomGamma RandomGammaGrad RandomPoisson RandomPoissonV2 RandomShuffle Multinomial StatelessRandomUniform
        StatelessRandomUniformV2 StatelessRandomUniformInt StatelessRandomUniformIntV2
        StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomNormal StatelessRandomNormalV2
        StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessRandomGammaV2 StatelessRandomGammaV3
        StatelessRandomBinomial StatelessRandomPoisson StatelessParameterizedTruncatedNormal StatelessMultinomial
        StatelessShuffle StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomGetAlg
        StatefulStandardNormalV2 StatefulUniform StatefulUniformInt StatefulUniformFullInt StatefulTruncatedNormal
        StatefulRandomBinomial RngReadAndSkip RngSkip LogUniformCandidateSampler
        UniformCandidateSampler RandomIndexShuffle""",
    "text, in tensors": """
        AsString StringJoin StringLength StringLower StringUpper StringStrip StringSplit StringSplitV2 StringNGrams
        StringToNumber StringToHashBucket StringToHashBucketFast StringToHashBucketStrong ReduceJoin RegexReplace
        RegexFullMatch StaticRegexReplace StaticRegexFullMatch Substr UnsortedSegmentJoin UnicodeDecode
        UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode DecodeBase64 EncodeBase64 DecodeRaw
        DecodePaddedRaw DecodeCSV DecodeCompressed DecodeJSONExample ParseExample ParseExampleV2 ParseSingleExample
        ParseSequenceExample ParseSequenceExampleV2 ParseSingleSequenceExample ParseTensor SerializeTensor
        Fingerprint""",
    "ragged and sparse tensors": """
        RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor
        RaggedTensorToVariant RaggedTensorToVariantGradient RaggedCross RaggedCountSparseOutput
        RaggedFillEmptyRows SparseAdd SparseConcat SparseCountSparseOutput DenseCountSparseOutput SparseCross
        SparseCrossHashed SparseCrossV2 SparseBincount SparseDenseCwiseAdd SparseDenseCwiseDiv
        SparseDenseCwiseMul SparseFillEmptyRows SparseReduceMax SparseReduceMaxSparse SparseReduceSum
        SparseReduceSumSparse SparseReorder SparseReshape SparseSegmentMean SparseSegmentMeanWithNumSegments
        SparseSegmentSqrtN SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumWithNumSegments
        SparseSlice SparseSoftmax SparseSparseMaximum SparseSparseMinimum SparseSplit SparseTensorDenseAdd
        SparseTensorDenseMatMul SparseToDense SparseToSparseSetOperation DenseToDenseSetOperation
        DenseToSparseSetOperation SetSize DeserializeSparse SerializeSparse SerializeManySparse
        DeserializeManySparse""",
}
ALLOWED_OPERATIONS = frozenset(name for names in GROUPS.values() for name in names.split())

# Lookup tables: harmless if their content comes from the model itself, which `tables` checks.
FILE_TABLE_OPERATIONS = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
TABLE_OPERATIONS = FILE_TABLE_OPERATIONS | frozenset(
    """HashTable HashTableV2 AnonymousHashTable MutableHashTable MutableHashTableV2 AnonymousMutableHashTable
    MutableHashTableOfTensors MutableHashTableOfTensorsV2 AnonymousMutableHashTableOfTensors MutableDenseHashTable
    MutableDenseHashTableV2 AnonymousMutableDenseHashTable InitializeTable InitializeTableV2 LookupTableFind
    LookupTableFindV2 LookupTableInsert LookupTableInsertV2 LookupTableRemoveV2 LookupTableSize LookupTableSizeV2
    LookupTableExport LookupTableExportV2 LookupTableImport LookupTableImportV2""".split()
)

# Operations that read the variables of a TensorFlow 1 model while it is loaded.
RESTORE_OPERATIONS = frozenset({"RestoreV2", "Restore", "RestoreSlice"})

# Stateless operations that access files. TensorFlow runs them to infer shapes, even where nothing calls them.
FOLDED_FILE_OPERATIONS = frozenset(
    """ReadFile MatchingFiles GenerateVocabRemapping PyFuncStateless DebugIdentity DebugNanCount
    DebugNumericSummary CacheDataset SnapshotDataset SnapshotDatasetV2 DatasetFromGraph""".split()
)
# Operations that write to the files or servers in their attributes, for any input.
DEBUG_OPERATIONS = frozenset({"DebugIdentity", "DebugNanCount", "DebugNumericSummary"})

# What operations do, by the words that follow their name in a message.
_EFFECTS = {
    "reads files": "ReadFile MatchingFiles RestoreV2 Restore RestoreSlice WholeFileReaderV2 LoadAndRemapMatrix "
    "GenerateVocabRemapping TextLineReaderV2 TFRecordReaderV2 FixedLengthRecordReaderV2 LMDBReader "
    "TFRecordDataset TFRecordDatasetV2 TextLineDataset FixedLengthRecordDataset FixedLengthRecordDatasetV2",
    "writes files": "WriteFile SaveV2 Save SaveSlices MergeV2Checkpoints WriteSummary WriteScalarSummary "
    "CreateSummaryFileWriter DatasetToTFRecord SaveDataset SaveDatasetV2 CacheDatasetV2 DumpTensor "
    "CreateSummaryDbWriter WriteHistogramSummary WriteImageSummary WriteAudioSummary WriteGraphSummary",
    "runs Python code": "PyFunc PyFuncStateless EagerPyFunc",
    "exchanges data with other processes": "_Send _Recv _HostSend _HostRecv Send Recv RemoteCall RpcCall "
    "RpcClient RpcServer CollectiveReduce CollectiveReduceV2 CollectiveGather CollectiveBcastSend NcclAllReduce",
    "runs a program that screening cannot read": "XlaCallModule XlaLaunch XlaLaunchV2 _XlaRun _XlaCompile "
    "TPUExecute TRTEngineOp DatasetFromGraph XlaCustomCall XlaCustomCallV2",
    "writes to files or servers named in its attributes": "DebugIdentity DebugIdentityV2 DebugIdentityV3 "
    "DebugNanCount DebugNumericSummary",
}
_EFFECT_OF = {name: effect for effect, names in _EFFECTS.items() for name in names.split()}


def describe_effect(operation: str) -> str:
    """Say what a refused operation does, in words that follow its name."""
    return _EFFECT_OF.get(operation, "is not known to be harmless")
