"""Which version of its table a row has, and columns that are announced before a row has them.

`versions` decides; `known` is what the log holds, `catalog` what the source says now; `added` finds columns
of tables to which nobody writes. Imports `opened` and what stands below it; `pump` tells it what the stream
says.
"""
