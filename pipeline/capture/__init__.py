"""Capture: from the source's replication slot into the change log, each transaction once (P3–P11).

Read `stage`, `startup`, `pump`. Imports point one way, from what runs to what is known:

    stage → startup, pump → housekeeping → joins, versions → opened → ddl → writing → history → entries

Each may import all that stands behind it. `options` and `waits` are for all, and import none of them.
"""
