"""A blocked import stays possible elsewhere."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from gateway.import_blocking import blocked


def test_a_package_is_blocked_within_the_block_only():
    """A package that was not imported before can be imported afterwards; one that was stays."""
    with blocked("sched"), blocked("sys"):
        with pytest.raises(ImportError):
            import_module("sched")
        assert import_module("sys") is sys
    assert import_module("sched").__name__ == "sched"


def test_a_gateway_without_redis_does_not_load_it():
    """It takes seven megabytes; aiocache would import it."""
    code = "import sys, gateway.app; print([name for name in ('redis', 'httpcore') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
