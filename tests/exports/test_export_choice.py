"""From words to formats: every file once, words from elsewhere with the way on."""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.exports import EXPORT_FORMATS
from kdcli.exports.choosing import FOREIGN_FORMATS, FOREIGN_QUANTIZATIONS, QUANTIZE_MODES, choose_formats


def names(*words, **options):
    return [chosen.file_name("student") for chosen in choose_formats(words, **options)]


def test_files_are_named_as_the_contract_says():
    assert names("litert", "onnx", "keras", "saved-model", quantize=QUANTIZE_MODES) == [
        "student.tflite",
        "student_float16.tflite",
        "student_dynamic.tflite",
        "student_int8.tflite",
        "student.onnx",
        "student.keras",
        "student_saved_model",
    ]


def test_each_file_is_asked_for_once_and_tflite_is_litert():
    assert names("tflite", "litert", "LITERT", quantize=["none", "none"]) == ["student.tflite"]


def test_io_is_of_int8_files():
    first, second = choose_formats(["litert"], quantize=["none", "int8"], io="uint8")
    assert (first.io, second.io) == (None, "uint8")


def test_floats_at_both_ends_are_of_every_litert_file():
    chosen = choose_formats(["litert"], quantize=["none", "int8"], io="float32")
    assert [one.io for one in chosen] == ["float32", "float32"]


@pytest.mark.parametrize("word", FOREIGN_FORMATS)
def test_a_format_of_other_tools_names_the_way_on(word):
    with pytest.raises(
        UsageError, match="--format must be one of keras, saved-model, litert, onnx, got"
    ) as caught:
        choose_formats([word])
    assert caught.value.hint == FOREIGN_FORMATS[word]
    assert "--format" in caught.value.hint


@pytest.mark.parametrize("word", FOREIGN_QUANTIZATIONS)
def test_a_quantisation_of_other_tools_names_ours(word):
    with pytest.raises(UsageError, match="--quantize must be one of") as caught:
        choose_formats(["litert"], quantize=[word])
    ours = caught.value.hint.removeprefix("--quantize ")
    assert ours in QUANTIZE_MODES


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        ([], {}, "no format: there is keras, saved-model, litert, onnx"),
        (["onx"], {}, "--format must be one of"),
        (["onnx", "keras"], {"quantize": ["int8"]}, "--quantize int8 is for litert files, asked for: onnx, keras"),
        (["litert"], {"io": "uint8"}, "--io uint8 is for int8 files"),
        (["onnx"], {"io": "float32"}, "--io float32 is for litert files, asked for: onnx"),
        (["litert"], {"quantize": ["int8"], "io": "uint16"}, "--io must be one of float32, uint8, int8"),
    ],
)
def test_what_would_have_no_effect_is_refused(formats, options, message):
    with pytest.raises(UsageError, match=message):
        choose_formats(formats, **options)


def test_the_nearest_format_is_named():
    with pytest.raises(UsageError) as caught:
        choose_formats(["onx"])
    assert caught.value.hint == "did you mean 'onnx'?"


def test_none_as_quantisation_is_no_fault_without_litert():
    assert names("keras", quantize=["none"]) == ["student.keras"]


def test_every_kind_says_what_runs_it():
    assert {kind: member.runtime for kind, member in EXPORT_FORMATS.items()} == {
        "keras": "tensorflow",
        "saved-model": "tensorflow",
        "litert": "litert",
        "onnx": "onnxruntime",
    }
