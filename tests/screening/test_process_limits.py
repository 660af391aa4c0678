"""Resource limits of a child process: they take effect, and they restrict nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

START = """from kdcli.screening.process_limits import limit_process
limit_process(memory=300_000_000, cpu_seconds=1, file_bytes=1000)
"""


def run_limited(body, tmp_path):
    return subprocess.run(
        [sys.executable, "-c", START + body], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have fewer limits")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("bytearray(600_000_000)", "MemoryError"),
        ("with open('large', 'wb') as file: file.write(bytes(5000))", "File too large"),
    ],
)
def test_memory_and_file_size_are_limited(body, error, tmp_path):
    done = run_limited(f"import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{body}", tmp_path)
    assert done.returncode == 1 and error in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have fewer limits")
def test_cpu_time_is_limited(tmp_path):
    assert run_limited("while True: pass", tmp_path).returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_a_process_within_the_limits_runs(tmp_path):
    done = run_limited("bytearray(100_000_000); open('small', 'wb').write(bytes(900)); print('done')", tmp_path)
    assert done.returncode == 0 and done.stdout == "done\n"
    assert (tmp_path / "small").stat().st_size == 900


def test_the_module_imports_only_the_standard_library(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; import kdcli.screening.process_limits; print('numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout == "False\n"
