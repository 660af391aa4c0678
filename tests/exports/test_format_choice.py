"""Format options: each format once, and hints for the words of other tools."""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.exports import EXPORT_FORMATS
from kdcli.exports.format_choice import FOREIGN_FORMATS, FOREIGN_QUANTIZATIONS, QUANTIZE_MODES, choose_formats


def names(*words, **options):
    return [chosen.file_name("student") for chosen in choose_formats(words, **options)]


def test_files_are_named_as_the_contract_says():
    assert names("litert", "onnx", "keras", "saved-model", quantize=QUANTIZE_MODES) == [
        "student.tflite",
        "student_float16.tflite",
        "student_dynamic.tflite",
        "student_int8.tflite",
        "student_int8x16.tflite",
        "student_int4.tflite",
        "student_int4-weights.tflite",
        "student_mixed.tflite",
        "student.onnx",
        "student.keras",
        "student_saved_model",
    ]


def test_each_format_is_chosen_once_and_tflite_is_litert():
    assert names("tflite", "litert", "LITERT", quantize=["none", "none"]) == ["student.tflite"]


def test_integer_io_applies_to_int8_files():
    first, second = choose_formats(["litert"], quantize=["none", "int8"], io="uint8")
    assert (first.io, second.io) == (None, "uint8")


def test_float_io_applies_to_every_litert_file():
    chosen = choose_formats(["litert"], quantize=["none", "int8"], io="float32")
    assert [one.io for one in chosen] == ["float32", "float32"]


@pytest.mark.parametrize("word", FOREIGN_FORMATS)
def test_a_format_of_other_tools_gets_a_hint(word):
    with pytest.raises(
        UsageError, match="--format must be one of keras, saved-model, litert, onnx, micro, web, got"
    ) as caught:
        choose_formats([word])
    assert caught.value.hint == FOREIGN_FORMATS[word]
    assert "--format" in caught.value.hint


@pytest.mark.parametrize("word", FOREIGN_QUANTIZATIONS)
def test_a_quantization_of_other_tools_gets_a_hint(word):
    with pytest.raises(UsageError, match="--quantize must be one of") as caught:
        choose_formats(["litert"], quantize=[word])
    ours = caught.value.hint.removeprefix("--quantize ")
    assert ours in QUANTIZE_MODES


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        ([], {}, "--format is missing; expected one of keras, saved-model, litert, onnx, micro, web"),
        (["onx"], {}, "--format must be one of"),
        (
            ["onnx", "keras"],
            {"quantize": ["int8"]},
            "--quantize int8 applies to litert files only, got --format onnx",
        ),
        (["litert"], {"io": "uint8"}, "--io uint8 applies to int8 files only"),
        (["onnx"], {"io": "float32"}, "--io float32 applies to litert files only, got --format onnx"),
        (["litert"], {"quantize": ["int8"], "io": "uint16"}, "--io must be one of float32, uint8, int8"),
    ],
)
def test_options_without_effect_are_refused(formats, options, message):
    with pytest.raises(UsageError, match=message):
        choose_formats(formats, **options)


def test_the_nearest_format_is_suggested():
    with pytest.raises(UsageError) as caught:
        choose_formats(["onx"])
    assert caught.value.hint == "did you mean 'onnx'?"


def test_quantize_none_is_allowed_without_litert():
    assert names("keras", quantize=["none"]) == ["student.keras"]


def test_every_format_names_its_runtime():
    assert {kind: member.runtime for kind, member in EXPORT_FORMATS.items()} == {
        "keras": "tensorflow",
        "saved-model": "tensorflow",
        "litert": "litert",
        "onnx": "onnxruntime",
        "micro": "tflite-micro",
        "web": "litert",
    }
