"""Python imports this at its start where this folder is on PYTHONPATH: see nudge.py, faults.py.

It changes modules as they are imported, so that neither the package nor a lesson knows about it.
"""

import importlib.abc
import os
import sys


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as that has been executed."""

    def __init__(self, changes):
        self.changes = changes

    def find_spec(self, name, path, target=None):
        if name not in self.changes:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None:
            execute, change = spec.loader.exec_module, self.changes[name]

            def execute_and_change(module):
                execute(module)
                change(module)

            spec.loader.exec_module = execute_and_change
        return spec


if "MRL_TEST_NUDGE" in os.environ:
    import nudge

    sys.meta_path.insert(0, AfterImport(nudge.CHANGES))
if "MRL_TEST_FAULT" in os.environ:
    import faults

    sys.meta_path.insert(0, AfterImport(faults.changes(os.environ["MRL_TEST_FAULT"])))
