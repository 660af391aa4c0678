"""The limits of a child process hold, and bound nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

START = (
    "from kdcli.screening.process_limits import limit\nlimit(memory=300_000_000, cpu_seconds=1, file_bytes=1000)\n"
)


def ran(body, tmp_path):
    return subprocess.run(
        [sys.executable, "-c", START + body], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems bound less")
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("bytearray(600_000_000)", "MemoryError"),
        ("with open('large', 'wb') as file: file.write(bytes(5000))", "File too large"),
    ],
)
def test_memory_and_files_are_bounded(body, told, tmp_path):
    done = ran(f"import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{body}", tmp_path)
    assert done.returncode == 1 and told in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems bound less")
def test_computing_is_bounded(tmp_path):
    assert ran("while True: pass", tmp_path).returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_what_is_within_the_limits_runs(tmp_path):
    done = ran("bytearray(100_000_000); open('small', 'wb').write(bytes(900)); print('done')", tmp_path)
    assert done.returncode == 0 and done.stdout == "done\n"
    assert (tmp_path / "small").stat().st_size == 900


def test_only_the_standard_library_is_needed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; import kdcli.screening.process_limits; print('numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout == "False\n"
