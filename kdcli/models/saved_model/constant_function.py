"""Traced functions whose variables are replaced by constants, which TensorFlow folds once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcli.lazy import tf
from kdcli.tensors import Tensor

# Operations that multiply by a kernel, and how many operations may follow the last of them.
_PRODUCTS = {"MatMul", "BatchMatMulV2", "Conv2D", "Conv3D", "Einsum"}
_MAX_DISTANCE = 30
# TensorFlow options that rewrite graphs at run time: for processors, and for GPUs.
_OPTIONS = {"mixed_bfloat16": "auto_mixed_precision_onednn_bfloat16", "mixed_float16": "auto_mixed_precision"}


def freeze_function(function: Any) -> Any:
    """A concrete function as one graph without calls and variables; TensorFlow has no public name for this."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Gradients cannot pass through lowered loops.
    return convert_variables_to_constants_v2(function, lower_control_flow=False)


class ConstantFunction:
    """A concrete function with the current values of its variables: faster to call, blind to later values.

    In half precision the last product of the result `exact`, and what follows it, stay in float32.

    Args:
        function: concrete function from tensors to a dictionary of tensors.
        precision: `float32` or `mixed_bfloat16`.
        exact: name of the result that is not rounded.

    Raises:
        ValueError: the function cannot be made constant.
    """

    def __init__(self, function: Any, *, precision: str = "float32", exact: str) -> None:
        # Python functions inside the graph exist only as long as the traced function.
        self._traced = function
        self.precision = precision
        self._names = sorted(function.structured_outputs)
        constant = _make_constant(function)
        graph, inputs = constant.graph.as_graph_def(), constant.inputs

        def body(*tensors: Tensor) -> None:
            feeds = {placeholder.name: tensor for placeholder, tensor in zip(inputs, tensors, strict=True)}
            tf.graph_util.import_graph_def(graph, input_map=feeds, name="")

        wrapped = tf.compat.v1.wrap_function(body, [tf.TensorSpec(one.shape, one.dtype) for one in inputs])
        results = [wrapped.graph.get_tensor_by_name(tensor.name) for tensor in constant.outputs]
        self._last: Any = None
        if precision != "float32":
            number = self._names.index(exact)
            hidden = _find_last_product_input(results[number])
            if hidden is not None:
                self._last = wrapped.prune([hidden], [results[number]])
                results[number] = hidden
        self._exact = exact
        self._function = wrapped.prune(list(wrapped.inputs), results)

    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        """The results, by name."""
        with use_graph_precision(self.precision):
            outputs = self._function(*tf.nest.flatten(list(inputs)))
        results = dict(zip(self._names, outputs, strict=True))
        if self._last is not None:
            results[self._exact] = self._last(results[self._exact])[0]
        return results


def _make_constant(function: Any) -> Any:
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for body in definition.library.function for node in body.node_def)]
    if any(node.op.startswith("Assign") for node in nodes):
        raise ValueError("it changes its variables")
    try:
        constant = freeze_function(function)
    # The conversion is internal to TensorFlow and raises anything; the function itself still works.
    except Exception as error:
        raise ValueError(f"it cannot be made constant: {error}") from error
    if len(constant.inputs) != len(function.inputs) - len(function.captured_inputs):
        raise ValueError("it needs more than its variables")
    return constant


def _find_last_product_input(result: Tensor) -> Tensor | None:
    """The input of the last product by a kernel; None if the result depends on other tensors too."""
    operation = result.op
    for _ in range(_MAX_DISTANCE):
        varying = [tensor for tensor in operation.inputs if not _is_constant(tensor.op)]
        if operation.type in _PRODUCTS and len(varying) == 1:
            return varying[0] if _depends_only_on(result, varying[0]) else None
        if not varying:
            return None
        operation = varying[0].op
    return None


def _is_constant(operation: Any) -> bool:
    while operation.type in ("Identity", "Cast") and operation.inputs:
        operation = operation.inputs[0].op
    return bool(operation.type == "Const")


def _depends_only_on(result: Tensor, hidden: Tensor) -> bool:
    """Whether a tensor can be computed from another tensor and constants alone."""
    waiting, seen = [result.op], set()
    while waiting:
        operation = waiting.pop()
        if operation is hidden.op or operation.name in seen:
            continue
        if operation.type in ("Placeholder", "PlaceholderWithDefault"):
            return False
        seen.add(operation.name)
        waiting.extend([*(tensor.op for tensor in operation.inputs), *operation.control_inputs])
    return True


@contextmanager
def use_graph_precision(precision: str) -> Iterator[None]:
    """Functions called in the block compute in `mixed_bfloat16` or `mixed_float16`; `float32` changes nothing.

    The option belongs to the call, not to the function: outside the block every function computes in float32
    again, so the block must enclose only the calls that are meant.
    """
    if precision == "float32":
        yield
        return
    option = _OPTIONS[precision]
    before = tf.config.optimizer.get_experimental_options().get(option, False)
    tf.config.optimizer.set_experimental_options({option: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({option: before})
