"""Hostile SavedModel folders: wrong files next to the message, and links out of the folder."""

from __future__ import annotations

import os
import shutil

import tensorflow as tf
from hostile import Hostile
from hostile_messages import save_good


def replace_with_link(folder, name):
    """Move a part of the model out of the folder, and leave a link to it."""
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)


def linked_message(folder, marker):
    save_good(folder)
    replace_with_link(folder, "saved_model.pb")


def linked_variables(folder, marker):
    save_good(folder)
    replace_with_link(folder, "variables")


def linked_shard(folder, marker):
    save_good(folder)
    replace_with_link(folder, "variables/variables.data-00000-of-00001")


def linked_assets(folder, marker):
    save_good(folder)
    shutil.rmtree(folder / "assets")
    (folder / "assets").symlink_to("/etc")


def linked_asset(folder, marker):
    save_good(folder)
    (folder / "assets/words.txt").symlink_to("/etc/hostname")


def pipe(folder, marker):
    save_good(folder)
    os.mkfifo(folder / "assets/pipe")


def twin(folder, marker):
    save_good(folder)
    (folder / "saved_model.pbtxt").write_text("saved_model_schema_version: 1\n")


def only_the_twin(folder, marker):
    save_good(folder)
    (folder / "saved_model.pb").rename(folder / "saved_model.pbtxt")


def chunked_twin(folder, marker):
    save_good(folder)
    (folder / "saved_model.cpb").write_bytes(b"x")


def empty_folder(folder, marker):
    folder.mkdir()


def no_index(folder, marker):
    save_good(folder)
    (folder / "variables/variables.index").unlink()


def no_values(folder, marker):
    save_good(folder)
    (folder / "variables/variables.data-00000-of-00001").unlink()


def large_fingerprint(folder, marker):
    save_good(folder)
    with open(folder / "fingerprint.pb", "wb") as file:
        file.truncate(2**30)


def large_message(folder, marker):
    """A message of three gigabytes in a sparse file."""
    save_good(folder)
    with open(folder / "saved_model.pb", "ab") as file:
        file.truncate(3 * 2**30)


def values_cut(folder, marker):
    weight = tf.Variable(tf.zeros([100]), name="weight")
    save_good(folder, other=weight)
    shard = folder / "variables/variables.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:100])


FOLDERS = (
    Hostile(linked_message, rule="link"),
    Hostile(linked_variables, rule="link"),
    Hostile(linked_shard, rule="link"),
    Hostile(linked_assets, rule="link"),
    Hostile(linked_asset, rule="link"),
    Hostile(pipe, rule="special-file"),
    Hostile(twin, rule="twin"),
    Hostile(only_the_twin, rule="twin"),
    Hostile(chunked_twin, rule="twin"),
    Hostile(empty_folder, rule="unreadable"),
    Hostile(no_index, rule="variables"),
    Hostile(no_values, rule="variables"),
    Hostile(large_fingerprint, rule="size"),
    Hostile(large_message, rule="size"),
    Hostile(values_cut, rule="size"),
)
