"""A traced function with constants for its variables: TensorFlow folds them into each other once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcli.lazy import tf

# What multiplies by a kernel, and what may stand between the last of them and the logits.
_PRODUCTS = {"MatMul", "BatchMatMulV2", "Conv2D", "Conv3D", "Einsum"}
_FARTHEST = 30


def freeze_function(function: Any) -> Any:
    """A concrete function as one graph without calls and variables; TensorFlow has no public name for this."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Loops stay whole: only so can gradients go through them.
    return convert_variables_to_constants_v2(function, lower_control_flow=False)


class ConstantFunction:
    """A concrete function with the values that its variables have now; faster to call, and blind to later ones.

    In half precision the last product of `exact`, and what follows it, stay in float32.

    Args:
        function: a concrete function from tensors to a dictionary of them.
        precision: `float32` or `mixed_bfloat16`.
        exact: the result that is not rounded.

    Raises:
        ValueError: it cannot be made constant.
    """

    def __init__(self, function: Any, *, precision: str = "float32", exact: str) -> None:
        # Functions of the host inside the graph live as long as the function that was traced.
        self._traced = function
        self.precision = precision
        self._names = sorted(function.structured_outputs)
        constant = _constant(function)
        graph, inputs = constant.graph.as_graph_def(), constant.inputs

        def body(*tensors: Any) -> None:
            fed = {given.name: tensor for given, tensor in zip(inputs, tensors, strict=True)}
            tf.graph_util.import_graph_def(graph, input_map=fed, name="")

        wrapped = tf.compat.v1.wrap_function(body, [tf.TensorSpec(one.shape, one.dtype) for one in inputs])
        results = [wrapped.graph.get_tensor_by_name(tensor.name) for tensor in constant.outputs]
        self._last: Any = None
        if precision != "float32":
            number = self._names.index(exact)
            hidden = _before_last_product(results[number])
            if hidden is not None:
                self._last = wrapped.prune([hidden], [results[number]])
                results[number] = hidden
        self._exact = exact
        self._function = wrapped.prune(list(wrapped.inputs), results)

    def __call__(self, *given: Any) -> dict[str, Any]:
        """The results, by name."""
        with use_graph_precision(self.precision):
            answered = self._function(*tf.nest.flatten(list(given)))
        results = dict(zip(self._names, answered, strict=True))
        if self._last is not None:
            results[self._exact] = self._last(results[self._exact])[0]
        return results


def _constant(function: Any) -> Any:
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for body in definition.library.function for node in body.node_def)]
    if any(node.op.startswith("Assign") for node in nodes):
        raise ValueError("it changes its variables")
    try:
        constant = freeze_function(function)
    # The conversion is TensorFlow's own and raises whatever it meets; the function itself still answers.
    except Exception as error:
        raise ValueError(f"it cannot be made constant: {error}") from error
    if len(constant.inputs) != len(function.inputs) - len(function.captured_inputs):
        raise ValueError("it needs more than its variables")
    return constant


def _before_last_product(result: Any) -> Any:
    """What the last product by a kernel is given; None where more than this leads to the result."""
    operation = result.op
    for _ in range(_FARTHEST):
        varying = [tensor for tensor in operation.inputs if not _is_constant(tensor.op)]
        if operation.type in _PRODUCTS and len(varying) == 1:
            return varying[0] if _follows(result, varying[0]) else None
        if not varying:
            return None
        operation = varying[0].op
    return None


def _is_constant(operation: Any) -> bool:
    while operation.type in ("Identity", "Cast") and operation.inputs:
        operation = operation.inputs[0].op
    return bool(operation.type == "Const")


def _follows(result: Any, hidden: Any) -> bool:
    """Whether a tensor can be computed from another one alone."""
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


# TensorFlow's options that rewrite a graph when it is run: for processors, and for GPUs.
_OPTIONS = {"mixed_bfloat16": "auto_mixed_precision_onednn_bfloat16", "mixed_float16": "auto_mixed_precision"}


@contextmanager
def use_graph_precision(precision: str) -> Iterator[None]:
    """Functions called in the block compute in `mixed_bfloat16` or `mixed_float16`; `float32` changes nothing.

    The option belongs to the call, not to the function: outside of the block the same function computes in
    float32 again, and so does every other. Keep the block around the calls that are meant.
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
