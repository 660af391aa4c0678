"""Hostile SavedModels that `tf.saved_model.save` writes: the payload is in a function."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from hostile import Hostile

VECTOR = tf.TensorSpec([None, 3], tf.float32, name="x")


def save_function(folder, function, *, specification=VECTOR, **attributes):
    """Save `function(x)` as the signature, with objects that it uses as attributes."""
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    module.serve = tf.function(function, input_signature=[specification])
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})


def write(marker):
    """The payload: an operation that writes the marker."""
    return tf.raw_ops.WriteFile(filename=str(marker), contents="x")


class Resource(tf.saved_model.experimental.TrackableResource):
    """A resource with custom functions."""

    def __init__(self, create=lambda: None, initialize=lambda: None, destroy=lambda: None):
        super().__init__()
        self._create, self._start, self._end = create, initialize, destroy
        self.variable = tf.Variable([1.0, 2.0, 3.0])

    def _create_resource(self):
        self._create()
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[3])

    def _initialize(self):
        self._start()
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=tf.ones([3]))

    def _destroy_resource(self):
        self._end()


class Restored(Resource):
    """A resource that restores itself from a checkpoint."""

    def __init__(self, marker):
        super().__init__()
        self.marker = marker

    def _serialize_to_tensors(self):
        return {"value": tf.zeros([1])}

    def _restore_from_tensors(self, restored_tensors):
        with tf.control_dependencies([write(self.marker)] if not tf.executing_eagerly() else []):
            return tf.identity(restored_tensors["value"])


def use(resource):
    handle = resource.resource_handle
    return lambda x: x + tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def in_graph_only(marker):
    """A function that writes the marker when it runs, not while it is traced."""

    def run():
        if not tf.executing_eagerly():
            write(marker)

    return run


def initializer(folder, marker):
    resource = Resource(initialize=in_graph_only(marker))
    save_function(folder, use(resource), resource=resource)


def creator(folder, marker):
    resource = Resource(create=in_graph_only(marker))
    save_function(folder, use(resource), resource=resource)


def destroyer(folder, marker):
    resource = Resource(destroy=in_graph_only(marker))
    save_function(folder, use(resource), resource=resource)


def restorer(folder, marker):
    save_function(folder, lambda x: x + 1.0, resource=Restored(marker))


def initializer_reads(folder, marker):
    resource = Resource(initialize=lambda: tf.io.read_file("/etc/hostname"))
    save_function(folder, use(resource), resource=resource)


def initializer_calls_a_function(folder, marker):
    inner = tf.function(in_graph_only(marker), input_signature=[])
    resource = Resource(initialize=lambda: None if tf.executing_eagerly() else inner())
    save_function(folder, use(resource), resource=resource)


def serving(folder, marker):
    def call(x):
        with tf.control_dependencies([write(marker)]):
            return x * 2.0

    save_function(folder, call)


def after(marker, x):
    with tf.control_dependencies([write(marker)]):
        return tf.identity(x)


def condition(folder, marker):
    save_function(folder, lambda x: tf.cond(tf.size(x) > 0, lambda: after(marker, x), lambda: x))


def loop(folder, marker):
    def call(x):
        return tf.while_loop(lambda i, _: i < 1, lambda i, v: (i + 1, after(marker, v)), (0, x))[1]

    save_function(folder, call)


def mapping(folder, marker):
    save_function(folder, lambda x: tf.map_fn(lambda row: after(marker, row), x))


def scanning(folder, marker):
    save_function(folder, lambda x: tf.scan(lambda old, row: after(marker, old + row), x))


def branches(folder, marker):
    def call(x):
        return tf.switch_case(tf.size(x) * 0, [lambda: after(marker, x), lambda: x])

    save_function(folder, call)


def nested_functions(folder, marker):
    inner = tf.function(lambda x: after(marker, x))
    middle = tf.function(lambda x: inner(x) + 1.0)
    save_function(folder, lambda x: middle(x) * 2.0)


def gradient(folder, marker):
    @tf.custom_gradient
    def double(x):
        return x * 2.0, lambda upstream: after(marker, upstream)

    module = tf.Module()
    module.serve = tf.function(double, input_signature=[VECTOR])
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, folder, {"serving_default": module.serve}, options)


def python_code(folder, marker):
    save_function(folder, lambda x: tf.ensure_shape(tf.py_function(lambda y: y, [x], tf.float32), [None, 3]))


def numpy_code(folder, marker):
    save_function(folder, lambda x: tf.ensure_shape(tf.numpy_function(lambda y: y, [x], tf.float32), [None, 3]))


def reading(folder, marker):
    save_function(folder, lambda x: x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32))


def listing(folder, marker):
    save_function(folder, lambda x: x + tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32))


def printing_to_a_file(folder, marker):
    def call(x):
        tf.print(x, output_stream=f"file://{marker}")
        return x

    save_function(folder, call)


def debugging(folder, marker):
    def call(x):
        return tf.raw_ops.DebugIdentity(input=x, tensor_name="x:0", debug_urls=[f"file://{marker}"])

    save_function(folder, call)


def with_idle(folder, idle):
    """Save a harmless signature and a function that nothing calls."""
    save_function(folder, lambda x: x + 1.0, idle=tf.function(idle, input_signature=[VECTOR]))


def debugging_during_shape_inference(folder, marker):
    def idle(x):
        shape = tf.raw_ops.DebugIdentity(
            input=tf.constant([-1]), tensor_name="x:0", debug_urls=[f"file://{marker}"]
        )
        return tf.reshape(x, shape)

    with_idle(folder, idle)


def reading_during_shape_inference(folder, marker):
    def idle(x):
        name = tf.strings.join(["/etc/", tf.strings.substr("hostname", 0, 8 * tf.rank(x) // 2)])
        return tf.reshape(x, [tf.strings.length(tf.io.read_file(name)) * 0 - 1])

    with_idle(folder, idle)


def saving(folder, marker):
    def call(x):
        done = tf.raw_ops.SaveV2(prefix=str(marker), tensor_names=["x"], shape_and_slices=[""], tensors=[x])
        with tf.control_dependencies([done]):
            return tf.identity(x)

    save_function(folder, call)


def merging(folder, marker):
    def call(x):
        prefixes = tf.constant([str(marker)])
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=f"{marker}-merged")
        return x

    save_function(folder, call)


def restoring(folder, marker):
    def call(x):
        return (
            x
            + tf.raw_ops.RestoreV2(
                prefix=str(marker), tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
            )[0]
        )

    save_function(folder, call)


def initializer_restores(folder, marker):
    def initialize():
        if not tf.executing_eagerly():
            tf.raw_ops.RestoreV2(prefix="/etc/x", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])

    resource = Resource(initialize=initialize)
    save_function(folder, use(resource), resource=resource)


def reading_lines(folder, marker):
    def call(x):
        return x + tf.cast(
            tf.data.TextLineDataset("/etc/hostname").reduce(np.int64(0), lambda n, _: n + 1), tf.float32
        )

    save_function(folder, call)


def reading_records(folder, marker):
    def call(x):
        return x + tf.cast(
            tf.data.TFRecordDataset("/etc/hostname").reduce(np.int64(0), lambda n, _: n + 1), tf.float32
        )

    save_function(folder, call)


def summary(folder, marker):
    def call(x):
        writer = tf.raw_ops.SummaryWriter(shared_name="w")
        tf.raw_ops.CreateSummaryFileWriter(
            writer=writer, logdir=str(marker), max_queue=1, flush_millis=1, filename_suffix=""
        )
        return x

    save_function(folder, call)


def several_signatures(folder, marker):
    """Without a requested signature, all of them are screened."""
    module = tf.Module()
    module.good = tf.function(lambda x: x, input_signature=[VECTOR])
    module.bad = tf.function(lambda x: after(marker, x), input_signature=[VECTOR])
    tf.saved_model.save(module, folder, {"good": module.good, "bad": module.bad})


def chosen_signature(folder, marker):
    several_signatures(folder, marker)


def table(folder, marker):
    made = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1.0]), 0.0)
    save_function(folder, made.lookup, specification=tf.TensorSpec([None], tf.string), table=made)


def table_from(folder, filename):
    """Save a model that fills its table from the file `filename()` while it is loaded."""

    def initialize():
        if not tf.executing_eagerly():
            tf.raw_ops.InitializeTableFromTextFileV2(
                table_handle=holder[0].resource_handle, filename=filename(), key_index=-2, value_index=-1
            )

    class Table(Resource):
        def _create_resource(self):
            return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self):
            initialize()

    holder = []
    holder.append(Table())
    handle = holder[0].resource_handle

    def call(x):
        found = tf.raw_ops.LookupTableFindV2(table_handle=handle, keys=x, default_value=tf.constant(0, tf.int64))
        return tf.identity(found)

    save_function(folder, call, specification=tf.TensorSpec([None], tf.string), resource=holder[0])


def table_from_anywhere(folder, marker):
    table_from(folder, lambda: "/etc/hostname")


def table_from_a_computed_name(folder, marker):
    table_from(folder, lambda: tf.strings.join(["/etc", "hostname"], "/"))


def table_from_a_path_behind_an_asset(folder, marker):
    words = marker.parent / "words.txt"
    words.write_text("a\n")
    asset = tf.saved_model.Asset(str(words))
    table_from(folder, lambda: tf.strings.join([asset.asset_path, "/../../../../hostname"]))


GRAPHS = (
    Hostile(initializer, proof="load"),
    Hostile(creator, proof="load"),
    Hostile(destroyer),
    Hostile(restorer, proof="load"),
    Hostile(initializer_reads),
    Hostile(initializer_calls_a_function, proof="load"),
    Hostile(initializer_restores),
    Hostile(serving, proof="call"),
    Hostile(condition, proof="call"),
    Hostile(loop, proof="call"),
    Hostile(mapping, proof="call"),
    Hostile(scanning),
    Hostile(branches, proof="call"),
    Hostile(nested_functions, proof="call"),
    Hostile(gradient),
    Hostile(python_code),
    Hostile(numpy_code),
    Hostile(reading),
    Hostile(listing),
    Hostile(printing_to_a_file, proof="call"),
    Hostile(debugging, proof="call"),
    Hostile(debugging_during_shape_inference, proof="load"),
    Hostile(reading_during_shape_inference),
    Hostile(saving, proof="call"),
    Hostile(merging),
    Hostile(restoring),
    Hostile(reading_lines),
    Hostile(reading_records),
    Hostile(summary, proof="call"),
    Hostile(several_signatures),
    Hostile(chosen_signature, signature="bad", proof="call"),
    Hostile(table, rule="table"),
    Hostile(table_from_anywhere, rule="table", tables=True),
    Hostile(table_from_a_computed_name, rule="table", tables=True),
    Hostile(table_from_a_path_behind_an_asset, rule="table", tables=True),
)
