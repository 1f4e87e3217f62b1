"""What is left out of an import is there for everybody else."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from gateway.import_blocking import blocked


def test_a_package_is_out_of_reach_in_the_block_alone():
    """What was not imported can't be there, and can afterwards; what was imported before stays."""
    with blocked("sched"), blocked("sys"):
        with pytest.raises(ImportError):
            import_module("sched")
        assert import_module("sys") is sys
    assert import_module("sched").__name__ == "sched"


def test_a_gateway_without_redis_does_not_load_it():
    """It is seven megabytes; aiocache would take it along."""
    told = "import sys, gateway.app; print([name for name in ('redis', 'httpcore') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
