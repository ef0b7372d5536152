"""The event loop of one engine, compiled: the same decisions as the plain-Python one, to the last picosecond.

State lies in flat arrays so that the loop can stop anywhere and go on: :mod:`.fields` names their places, :mod:`.prices`
looks times up, :mod:`.heaps` and :mod:`.waiting` keep order, :mod:`.lanes` moves sequences, :mod:`.places` admits and
preempts, :mod:`.loop` lets time pass, and :mod:`.replica` is the face. Nothing here is imported before a simulation is
large enough to pay for loading Numba.
"""
