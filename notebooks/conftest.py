"""Make nbval see what it would miss: an exception that escapes in a thread or a task fails the running cell."""

import pytest
from nbval.plugin import IPyNbCell

from tools.kernel import install_guard, uncaught


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if not isinstance(item, IPyNbCell):
        return (yield)
    client = item.parent.kernel.kc
    if not getattr(item.parent, "guarded", False):
        install_guard(client)
        item.parent.guarded = True
    result = yield
    last = sum(c.cell_type == "code" for c in item.parent.nb.cells) - 1
    if found := uncaught(client, wait=item.cell_num == last):
        item.raise_cell_error("An exception escaped in a " + "; in a ".join(found))
    return result
