"""Hostile SavedModels that no saving code writes: the edited message of a harmless model."""

from __future__ import annotations

from contextlib import contextmanager

import tensorflow as tf
from hostile import Hostile
from hostile_graphs import VECTOR, Resource, after, save_function, use, write

FLOAT = tf.float32.as_datatype_enum


def save_good(folder, **attributes):
    """Save a harmless model with a variable and an addition that can be replaced."""
    weight = tf.Variable([1.0, 2.0, 3.0], name="weight")
    save_function(folder, lambda x: tf.nn.relu(x) + weight, weight=weight, **attributes)


@contextmanager
def edit(folder):
    """The meta graph of a saved model; changes to it are written back."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    yield message.meta_graphs[0]
    path.write_bytes(message.SerializeToString())


def nodes(meta, operation):
    library = meta.graph_def.library
    every = [*meta.graph_def.node, *(node for function in library.function for node in function.node_def)]
    return [node for node in every if node.op == operation]


def hostile_function(marker):
    def run():
        write(marker)

    return tf.function(run, input_signature=[])


def hostile_function_of_text(marker):
    def run(name):
        write(marker)
        return {"name": name, "slice_spec": name}

    return tf.function(run, input_signature=[tf.TensorSpec([], tf.string)])


def replace_method(folder, marker, name, *, function=None):
    """Save a model in which a function of the file replaces TensorFlow's method `name`."""
    save_good(folder, payload=function or hostile_function(marker))
    with edit(folder) as meta:
        for child in meta.object_graph_def.nodes[0].children:
            if child.local_name == "payload":
                child.local_name = name


def method_replaced(folder, marker):
    replace_method(folder, marker, "_gather_saveables_for_checkpoint")


def lookup_replaced(folder, marker):
    replace_method(folder, marker, "_lookup_dependency", function=hostile_function_of_text(marker))


def variable_with_a_function(folder, marker):
    save_good(folder, payload=hostile_function(marker))
    with edit(folder) as meta:
        objects = meta.object_graph_def.nodes
        payload = next(c.node_id for c in objects[0].children if c.local_name == "payload")
        variable = next(node for node in objects if node.WhichOneof("kind") == "variable")
        variable.children.add(local_name="_gather_saveables_for_checkpoint", node_id=payload)


def saveable(folder, marker):
    save_good(folder, payload=hostile_function_of_text(marker))
    with edit(folder) as meta:
        objects = meta.object_graph_def.nodes
        payload = next(c.node_id for c in objects[0].children if c.local_name == "payload")
        entry = objects[0].saveable_objects["value"]
        entry.save_function = entry.restore_function = payload


def graph_differs_from_objects(folder, marker):
    """TensorFlow 1 programs call another function under the name of the signature than TensorFlow 2."""
    save_good(folder, payload=tf.function(lambda x: after(marker, x), input_signature=[VECTOR]))
    with edit(folder) as meta:
        bad = next(f.signature.name for f in meta.graph_def.library.function if _has(f, "WriteFile"))
        call = next(n for n in meta.graph_def.node if n.name == "StatefulPartitionedCall")
        call.attr["f"].func.name = bad


def objects_differ_from_graph(folder, marker):
    """The loaded signature is another function than the one in the list of signatures."""
    save_good(folder, payload=tf.function(lambda x: after(marker, x), input_signature=[VECTOR]))
    with edit(folder) as meta:
        objects = meta.object_graph_def.nodes
        ends = {child.local_name: child.node_id for child in objects[0].children}
        objects[ends["signatures"]].children[0].node_id = ends["payload"]


def _has(function, operation):
    return any(node.op == operation for node in function.node_def)


def other_version(folder, marker):
    """TensorFlow may run one function instead of another with the same `api_implements`."""
    save_good(folder, payload=tf.function(lambda x: after(marker, x), input_signature=[VECTOR]))
    with edit(folder) as meta:
        for function in meta.graph_def.library.function:
            if _has(function, "Relu") or _has(function, "WriteFile"):
                function.attr["api_implements"].s = b"the same"


def function_named_like_an_operation(folder, marker):
    save_good(folder, payload=tf.function(lambda x: after(marker, x), input_signature=[VECTOR]))
    with edit(folder) as meta:
        for function in meta.graph_def.library.function:
            if _has(function, "WriteFile"):
                function.signature.name = "Relu"


def replace_addition(operation):
    """A model whose addition is replaced by another operation."""

    def build(folder, marker):
        save_good(folder)
        with edit(folder) as meta:
            for node in nodes(meta, "AddV2"):
                node.op = operation

    build.__name__ = f"replaced_by_{operation}"
    return build


def unused_custom_operation(folder, marker):
    save_good(folder, idle=tf.function(lambda x: tf.nn.elu(x), input_signature=[VECTOR]))
    with edit(folder) as meta:
        for node in nodes(meta, "Elu"):
            node.op = "UnknownOperation"


def second_meta_graph(folder, marker):
    from tensorflow.core.protobuf import saved_model_pb2

    save_good(folder)
    path = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    message.meta_graphs.add().CopyFrom(message.meta_graphs[0])
    path.write_bytes(message.SerializeToString())


def no_meta_graph(folder, marker):
    save_good(folder)
    (folder / "saved_model.pb").write_bytes(b"")


def truncated(folder, marker):
    save_good(folder)
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-100])


def save_with_text(folder, content):
    save_function(folder, lambda x: x + tf.cast(tf.strings.length(tf.constant(content)), tf.float32))


def small_graph(marker):
    with tf.Graph().as_default() as graph:
        write(marker)
    return graph.as_graph_def()


def hidden_graph(folder, marker):
    save_with_text(folder, small_graph(marker).SerializeToString())


def hidden_library(folder, marker):
    function = hostile_function(marker).get_concrete_function()
    save_with_text(
        folder,
        function.graph.as_graph_def().library.SerializeToString() or function.function_def.SerializeToString(),
    )


def hidden_model(folder, marker):
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    message.meta_graphs.add().graph_def.CopyFrom(small_graph(marker))
    save_with_text(folder, message.SerializeToString())


def save_with_asset(folder, name):
    words = folder.parent / "words.txt"
    words.write_text("a\n")
    save_good(folder, words=tf.saved_model.Asset(str(words)))
    with edit(folder) as meta:
        meta.asset_file_def[0].filename = name


def asset_above(folder, marker):
    save_with_asset(folder, "../../secret.txt")


def asset_absolute(folder, marker):
    save_with_asset(folder, "/etc/hostname")


def asset_remote(folder, marker):
    save_with_asset(folder, "gs://bucket/words.txt")


def asset_out_of_range(folder, marker):
    words = folder.parent / "words.txt"
    words.write_text("a\n")
    save_good(folder, words=tf.saved_model.Asset(str(words)))
    with edit(folder) as meta:
        del meta.asset_file_def[:]


def large_constant(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        node = meta.graph_def.library.function[0].node_def.add(name="large", op="Const")
        node.attr["dtype"].type = FLOAT
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0))
        node.attr["value"].tensor.tensor_shape.dim.add(size=10**10)


def large_fill(folder, marker):
    save_function(folder, lambda x: x + tf.reduce_sum(tf.raw_ops.Fill(dims=[100_000, 100_000], value=1.0)))


def large_range(folder, marker):
    save_function(folder, lambda x: x + tf.cast(tf.reduce_sum(tf.range(10**10, dtype=tf.int64)), tf.float32))


def large_random(folder, marker):
    save_function(folder, lambda x: x + tf.reduce_sum(tf.random.uniform([60_000, 60_000])))


def large_variable(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.shape.dim[0].size = 10**10


def large_table(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        node = meta.graph_def.library.function[0].node_def.add(name="large", op="MutableDenseHashTableV2")
        node.attr["initial_num_buckets"].i = 2**40


def large_list(folder, marker):
    save_good(folder, parts=[tf.Variable(1.0)])
    with edit(folder) as meta:
        for node in meta.object_graph_def.nodes:
            if node.user_object.identifier == "trackable_list_wrapper":
                node.children[0].local_name = "10_000_000_000"


def calls_of_calls(folder, marker):
    """Each function calls the next one ten times: 10^12 operations in a few kilobytes."""
    save_good(folder)
    with edit(folder) as meta:
        for level in range(12):
            function = meta.graph_def.library.function.add()
            function.signature.name = f"level_{level}"
            for place in range(10):
                node = function.node_def.add(
                    name=f"call_{place}", op="StatefulPartitionedCall" if level < 11 else "NoOp"
                )
                if level < 11:
                    node.attr["f"].func.name = f"level_{level + 1}"


def many_operations(folder, marker):
    """Two bytes for each of a million operations."""
    save_good(folder)
    with edit(folder) as meta:
        meta.graph_def.MergeFromString(b"\x0a\x00" * 1_000_000)


def many_parts(folder, marker):
    """Twenty megabytes that take two gigabytes once they are parsed."""
    save_good(folder)
    with open(folder / "saved_model.pb", "ab") as file:
        file.write(b"\x12\x00" * 10_000_000)


def recursion(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        for name, other in (("one", "two"), ("two", "one")):
            function = meta.graph_def.library.function.add()
            function.signature.name = name
            function.node_def.add(name="call", op="StatefulPartitionedCall").attr["f"].func.name = other


def missing_function(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        nodes(meta, "StatefulPartitionedCall")[0].attr["f"].func.name = "nowhere"


def two_functions_of_one_name(folder, marker):
    save_good(folder, payload=tf.function(lambda x: after(marker, x), input_signature=[VECTOR]))
    with edit(folder) as meta:
        functions = meta.graph_def.library.function
        bad = next(f for f in functions if _has(f, "WriteFile"))
        bad.signature.name = next(f for f in functions if _has(f, "Relu")).signature.name


def two_nodes_of_one_name(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        function = next(f for f in meta.graph_def.library.function if _has(f, "Relu"))
        function.node_def.add(name=function.node_def[0].name, op="NoOp")


def object_out_of_range(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        meta.object_graph_def.nodes[0].children[0].node_id = 10_000


def opaque_constant(folder, marker):
    save_good(folder)
    with edit(folder) as meta:
        node = meta.graph_def.library.function[0].node_def.add(name="opaque", op="Const")
        node.attr["dtype"].type = tf.variant.as_datatype_enum
        node.attr["value"].tensor.dtype = tf.variant.as_datatype_enum


def table_file_from_a_caller(folder, marker):
    """The function that fills the table gets its file from its caller."""
    resource = Resource()
    save_function(folder, use(resource), resource=resource)
    with edit(folder) as meta:
        start = next(c for n in meta.object_graph_def.nodes for c in n.children if c.local_name == "_initialize")
        name = meta.object_graph_def.nodes[start.node_id].function.concrete_functions[0]
        function = next(f for f in meta.graph_def.library.function if f.signature.name == name)
        argument = function.signature.input_arg[-1].name
        node = function.node_def.add(name="fill", op="InitializeTableFromTextFileV2")
        node.input.extend([argument, argument])


REPLACED = (
    "RemoteCall XlaCallModule _Recv DatasetFromGraph PyFunc LoadAndRemapMatrix FixedUnigramCandidateSampler "
    "CacheDataset WriteSummary CollectiveReduceV2 DumpTensor LMDBReader"
).split()
MESSAGES = (
    Hostile(method_replaced, proof="load"),
    Hostile(lookup_replaced),
    Hostile(variable_with_a_function),
    Hostile(saveable, proof="load"),
    Hostile(graph_differs_from_objects),
    Hostile(objects_differ_from_graph, proof="call"),
    Hostile(other_version),
    Hostile(function_named_like_an_operation, rule="function"),
    *(Hostile(replace_addition(operation)) for operation in REPLACED),
    Hostile(replace_addition("UnknownOperation"), rule="custom-operation"),
    Hostile(unused_custom_operation, rule="custom-operation"),
    Hostile(second_meta_graph, rule="meta-graphs"),
    Hostile(no_meta_graph, rule="meta-graphs"),
    Hostile(truncated, rule="unreadable"),
    Hostile(hidden_graph, rule="hidden-graph"),
    Hostile(hidden_library, rule="hidden-graph"),
    Hostile(hidden_model, rule="hidden-graph"),
    Hostile(asset_above, rule="asset"),
    Hostile(asset_absolute, rule="asset"),
    Hostile(asset_remote, rule="asset"),
    Hostile(asset_out_of_range, rule="asset"),
    Hostile(large_constant, rule="size"),
    Hostile(large_fill, rule="size"),
    Hostile(large_range, rule="size"),
    Hostile(large_random, rule="size"),
    Hostile(large_variable, rule="size"),
    Hostile(large_table, rule="size"),
    Hostile(large_list, rule="damaged"),
    Hostile(calls_of_calls, rule="size"),
    Hostile(many_operations, rule="size"),
    Hostile(many_parts, rule="size"),
    Hostile(recursion, rule="recursion"),
    Hostile(missing_function, rule="function"),
    Hostile(two_functions_of_one_name, rule="damaged"),
    Hostile(two_nodes_of_one_name, rule="damaged"),
    Hostile(object_out_of_range, rule="damaged"),
    Hostile(opaque_constant, rule="constant"),
    Hostile(table_file_from_a_caller, rule="table", tables=True),
)
