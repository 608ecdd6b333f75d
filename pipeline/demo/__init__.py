"""The demo: Keepstream on a real CRM, told as a story by `./demo`.

    names            people, companies and places, drawn from a seeded generator
    tryton           a running Tryton: its models and its transactions     ┐ run by the interpreter of
    tryton_company   the books, products and staff of a small company      │ Tryton's own environment and
    tryton_business  what a sales team does, by Tryton's business rules    │ import nothing of Keepstream
    tryton_traffic   the process that keeps that going at a steady rate    ┘
    crm              Tryton's database in the source, made once and cached
    servers          source, replica and change log for one demo
    commands         `keepstream …` as a user would call it
    latency          commit on the source until visible on the replica, seen from outside
    screen           progress for a terminal or for plain lines
    story            the steps, in order

Keepstream does not depend on Tryton: it is installed beside it, from requirements-demo.lock.
"""
