"""Notebooks: cells that await, on a loop that stands still between them (IPython), or runs on (Jupyter)."""

import os

from tests.environments.conftest import Run

CELLS = """
import os
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.showtraceback = lambda *_args, **_options: None  # printed by `cell`, in one line

def cell(text):
    done = shell.run_cell(text, silent=True)
    if not done.success:
        print(type(done.error_in_exec).__name__, str(done.error_in_exec).split(":")[0])

cell("import asyncio, os, time, calc; from warren import AsyncClient, Client, Server; url = os.environ['WARREN_URL']")
cell("client = AsyncClient(url, timeout=30, heartbeat=1); print(await client.call(calc.add, 1, 1))")
cell("time.sleep(4)")
cell("print(await client.call(calc.add, 1, 2))")
cell("await client.close(); client = AsyncClient(url, timeout=30); print(await client.call(calc.add, 1, 3))")
cell("await asyncio.sleep(0); blocking = Client(url, timeout=30); print(blocking.call(calc.add, 1, 4))")
cell("await asyncio.sleep(0); Server(calc.service, url=url).run()")
cell("await client.close(); blocking.close()")
"""


def test_cells_share_a_client_and_a_blocking_one_runs_beside(run: Run, worker: None) -> None:
    home = f"import os\nos.environ['IPYTHONDIR'] = {os.curdir!r}\n"
    said = run(home + CELLS)
    assert said.splitlines() == [
        "2",
        "3",
        "4",
        "5",
        "RuntimeError an event loop runs in this thread already (a notebook's?), and run() would start another",
    ]
