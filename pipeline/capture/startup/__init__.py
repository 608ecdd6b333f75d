"""How capture begins (P4–P6, P10, P11): prove that source and log belong together, own the slot, open an
epoch, and prove again that nobody came between.

A log without any ANCHOR has promised nothing (`beginning`); one with an ANCHOR is continued from its tail
(`continuing`). Imports `opened` and what stands below it; begin with `startup`.
"""
