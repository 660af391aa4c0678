"""Hostile TensorFlow 1 SavedModels: a flat graph, and collections of what loading runs."""

from __future__ import annotations

import tensorflow as tf
from hostile import Hostile
from hostile_graphs import write

tf1 = tf.compat.v1


def save(folder, *, main_op=None, legacy=None, output=lambda y: y, collect=None, edit=None):
    """Save softmax(x @ w); each argument may add the payload inside the graph."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        x = tf1.placeholder(tf.float32, [None, 4], name="x")
        weights = tf1.get_variable("w", [4, 2], use_resource=True)
        y = output(tf.nn.softmax(x @ weights))
        if collect:
            collect()
        session.run(weights.initializer)
        signatures = {"serving_default": tf1.saved_model.predict_signature_def({"x": x}, {"y": y})}
        builder = tf1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signatures,
            main_op=main_op() if main_op else None,
            legacy_init_op=legacy() if legacy else None,
        )
        if edit:
            edit(builder._saved_model.meta_graphs[0])
        builder.save()


def main_operation(folder, marker):
    save(folder, main_op=lambda: write(marker))


def legacy_operation(folder, marker):
    save(folder, legacy=lambda: write(marker))


def initial_signature(folder, marker):
    def edit(meta):
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "payload"

    save(folder, collect=lambda: write_named(marker), edit=edit)


def table_collection(folder, marker):
    save(folder, collect=lambda: tf1.add_to_collection("table_initializer", write(marker)))


def local_variable(folder, marker):
    def collect():
        with tf.control_dependencies([write(marker)]):
            value = tf.zeros([2])
        tf1.get_variable("v", initializer=value, collections=["local_variables"], use_resource=True)

    save(folder, collect=collect)


def flat_signature(folder, marker):
    def output(y):
        with tf.control_dependencies([write(marker)]):
            return tf.identity(y)

    save(folder, output=output)


def restore_operation(folder, marker):
    def edit(meta):
        node = next(n for n in meta.graph_def.node if n.name == meta.saver_def.restore_op_name)
        node.input.append("^payload")

    save(folder, collect=lambda: write_named(marker), edit=edit)


def write_named(marker):
    tf.raw_ops.WriteFile(filename=str(marker), contents="x", name="payload")


def restore_from_elsewhere(folder, marker):
    def edit(meta):
        copied = next(n for n in meta.graph_def.node if n.name == "save/Const" or n.op == "Const")
        elsewhere = meta.graph_def.node.add()
        elsewhere.CopyFrom(copied)
        elsewhere.name = "elsewhere"
        elsewhere.attr["dtype"].type = tf.string.as_datatype_enum
        elsewhere.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/etc/hostname"))
        next(n for n in meta.graph_def.node if n.op == "RestoreV2").input[0] = "elsewhere"

    save(folder, edit=edit)


TF1 = (
    Hostile(main_operation, proof="load"),
    Hostile(legacy_operation, proof="load"),
    Hostile(initial_signature, proof="load"),
    Hostile(table_collection, proof="load"),
    Hostile(local_variable, proof="load"),
    Hostile(flat_signature, proof="call"),
    Hostile(restore_operation, proof="load"),
    Hostile(restore_from_elsewhere),
)
