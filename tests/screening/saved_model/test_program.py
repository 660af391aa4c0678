"""The calls between the functions of a graph."""

from __future__ import annotations

import pytest
import tensorflow as tf

from kdcli.screening.saved_model.program import call_order, index_program


def library(**functions):
    """A graph whose functions call others: `one={"f": ["two"]}` calls `two` by an attribute `f`."""
    graph = tf.compat.v1.GraphDef()
    for name, attributes in functions.items():
        function = graph.library.function.add()
        function.signature.name = name
        node = function.node_def.add(name="call", op="StatefulPartitionedCall")
        for attribute, called in attributes.items():
            if isinstance(called, bytes):
                node.attr[attribute].s = called
            elif len(called) == 1:
                node.attr[attribute].func.name = called[0]
            else:
                node.attr[attribute].list.func.extend(tf.compat.v1.NameAttrList(name=one) for one in called)
    return graph


def test_calls_in_attributes_lists_and_texts_are_followed():
    program = index_program(
        library(a={"f": ["b"]}, b={"branches": ["c", "d"]}, c={"note": b"e"}, d={}, e={}, f={})
    )
    assert program.find_reachable(["a"]) == {"a", "b", "c", "d", "e"}


def test_a_function_nested_in_an_attribute_is_followed():
    graph = library(a={"f": ["b"]}, b={}, c={})
    graph.library.function[0].node_def[0].attr["f"].func.attr["inner"].func.name = "c"
    assert index_program(graph).find_reachable(["a"]) == {"a", "b", "c"}


def test_an_operation_with_the_name_of_a_function_calls_it():
    graph = library(a={}, b={})
    graph.library.function[0].node_def[0].op = "b"
    assert index_program(graph).find_reachable(["a"]) == {"a", "b"}


def test_gradients_and_other_versions_are_followed():
    graph = library(a={"_gradient_op_type": b"Custom-1"}, b={}, c={}, d={})
    graph.library.registered_gradients.add(registered_op_type="Custom-1", gradient_func="b")
    graph.library.gradient.add(function_name="b", gradient_func="c")
    for function in (graph.library.function[2], graph.library.function[3]):
        function.attr["api_implements"].s = b"the same"
    assert index_program(graph).find_reachable(["a"]) == {"a", "b", "c", "d"}


def test_nodes_behind_a_fed_tensor_do_not_run():
    graph = tf.compat.v1.GraphDef()
    for name, inputs in {"a": [], "b": ["a"], "c": ["b:1", "^d"], "d": [], "e": ["c"]}.items():
        graph.node.add(name=name, op="Identity").input.extend(inputs)
    program = index_program(graph)
    assert program.find_upstream(["c:0"]) == {"a", "b", "c", "d"}
    assert program.find_upstream(["c:0"], feeds=["b:0"]) == {"c", "d"}
    assert program.find_upstream(["nowhere:0"]) == set()


def test_called_functions_precede_their_callers():
    order = call_order(index_program(library(a={"f": ["b"]}, b={"f": ["c"]}, c={})))
    assert order.index("c") < order.index("b") < order.index("a")


def test_cycles_and_long_chains_of_calls_are_errors():
    with pytest.raises(ValueError, match="calls itself"):
        call_order(index_program(library(a={"f": ["b"]}, b={"f": ["a"]})))
    chain = {f"f{number}": {"f": [f"f{number + 1}"]} for number in range(300)}
    with pytest.raises(ValueError, match="call each other 300 levels deep"):
        call_order(index_program(library(**chain)))
