"""The event loop of one engine in C: the same decisions as the plain-Python one, to the last picosecond.

The sources beside this file are compiled with the system's C compiler when they are first needed, and kept
(:mod:`.build`). :mod:`.library` says what C and Python share; :mod:`.replica` is the face. The headers follow the
plain-Python loop's modules and names: a change in one of the two loops is a change in the other.
"""
