"""
Every operation once, as a generator that yields effects; the drivers carry the effects out.

A flow runs undisturbed between two effects: no driver lets two flows of one session do so at the same time.
"""
