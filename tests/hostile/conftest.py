"""One served gateway for each file of attacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.gateways import serving
from tests.hostile.attacked import AttackedGateway


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedGateway]:
    """A gateway with the default settings, shared by the tests of a file."""
    with ExitStack() as stack:
        one = AttackedGateway(tmp_path_factory.mktemp("attacked"), lambda app: stack.enter_context(serving(app)))
        stack.callback(one.stop)
        yield one
