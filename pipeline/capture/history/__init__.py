"""P10 and P11: whether source, slot and publication are the ones whose history the log holds.

Comparisons with what `entries` say, by the catalog alone: what schema messages tell of it is `ddl`, above.
"""
