"""A plugin of pytest, ``-p tests.alone``: each test runs alone, in a fork of the process that collected it.

Nothing that another test did is there: no fixture of a module or the session, no state of a library.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Sequence

import pytest
from _pytest.runner import runtestprotocol


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool:
    """Run the test in a child and report what it reported."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _forked(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _forked(item: pytest.Item) -> Sequence[pytest.TestReport]:
    hook = item.config.hook
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            try:
                reports = runtestprotocol(item, log=False, nextitem=None)  # every fixture ends here too
                packed = [
                    hook.pytest_report_to_serializable(config=item.config, report=one) for one in reports
                ]
                told.write(pickle.dumps(packed))
                told.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        content = told.read()
    if not content:
        why = f"{item.nodeid} ended its process: status {status}"
        return [pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")]
    return [
        hook.pytest_report_from_serializable(config=item.config, data=one) for one in pickle.loads(content)
    ]
